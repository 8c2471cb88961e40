"""Where the program begins: `ascood`, or `python -m ascood`."""

import sys

from ascood.command import run_app
from ascood.study.cli import app

# A wing after the study mounts its commands here, in one line: app.add_typer(its.app), or with name="group" as a group of commands.


def main() -> int:
    "Exit status of the command that the process was called with."
    return run_app(app)


if __name__ == "__main__":
    sys.exit(main())
