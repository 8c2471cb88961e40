"""Where the program begins: `ascood`, or `python -m ascood`."""

import sys

from ascood.study.cli import main

if __name__ == "__main__":
    sys.exit(main())
