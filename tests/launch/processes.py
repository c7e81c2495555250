"""`python -m launch` in a process of its own, with a hook of the test's at an exact moment."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY = f"--config={ROOT}/tests/configs/tiny.py"
DEADLINE = 120

# Runs the command line as Python does, and sends SIGINT when a module is first imported ("import NAME"), or a
# function first called ("call MODULE:NAME"); with "again" twice.
HOOKED = """
import os, runpy, sys
kind, _, name = sys.argv.pop(1).partition(" ")

def interrupt():
    os.kill(os.getpid(), 2)

class Finder:
    done = False
    def find_spec(self, wanted, path=None, target=None):
        if not Finder.done and kind == "import" and wanted == name:
            Finder.done = True
            interrupt()

class AfterImport:
    def find_spec(self, wanted, path=None, target=None):
        module, _, inside = name.partition(":")
        if kind != "call" or Finder.done or module not in sys.modules:
            return None
        *outer, last = inside.split(".")
        owner = sys.modules[module]
        for part in outer:
            owner = getattr(owner, part, None)
        if owner is None:  # The module is half imported.
            return None
        function = getattr(owner, last, None)
        if function is not None:
            Finder.done = True
            def hooked(*args, **named):
                interrupt()
                return function(*args, **named)
            setattr(owner, last, hooked)

sys.meta_path[:0] = [Finder(), AfterImport()]
sys.argv[0] = "launch"
runpy.run_module("launch", run_name="__main__", alter_sys=True)
"""


def command(
    *words: object, moment: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m launch WORDS` to its end; `environment` is added, and left out where empty."""
    start = ["-m", "launch"] if moment is None else ["-c", HOOKED, moment]
    env = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, *start, *map(str, words)],
        cwd=ROOT,
        env={name: value for name, value in env.items() if value},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        # A shell may have started the tests in the background, where SIGINT is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
