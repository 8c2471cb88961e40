"""The command line: `python -m ascood`."""

import sys

from ascood.study.cli import main

if __name__ == "__main__":
    sys.exit(main())
