"""Where the program begins: `ascood`, or `python -m ascood`."""

import sys

from ascood.command import run_app
from ascood.own.command import app as own_app
from ascood.study.cli import app

app.add_typer(own_app, name="own")


def main() -> int:
    "Exit status of the command that the process was called with."
    return run_app(app)


if __name__ == "__main__":
    sys.exit(main())
