"""The console script `qsdt`, or `python -m qsdt_jax.command`: `python -m launch`, wherever it is called."""

import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent
IN_WHEEL = HERE / "_command"  # A wheel has `launch` and `configs` there, so that it installs one name alone.
# The words that call the command line, for help and messages.
COMMAND = "qsdt" if IN_WHEEL.is_dir() else "python -m launch"


def main() -> None:
    """Runs the words of the command line; ends the process."""
    sys.path.insert(0, str(IN_WHEEL if IN_WHEEL.is_dir() else HERE.parent))
    runpy.run_module("launch", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
