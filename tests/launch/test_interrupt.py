"""Ctrl-C at any moment of a start: one line, status 130, no traceback."""

import signal
import subprocess
import sys

import pytest

from launch.interrupt import LINE, STATUS
from tests.launch.processes import DEADLINE, ROOT, TINY, command

FOLDER_DATA = "--config.data.source=folder"
MOMENTS = {
    "first line": ("import launch.surroundings", [TINY]),
    "import of numpy, which makes an ImportError of it": ("import numpy._core.multiarray", [TINY]),
    "import of JAX": ("import jax._src.core", [TINY]),
    "import of ours": ("import qsdt_jax.train.loop", [TINY]),
    "import for flags": ("import ml_collections.config_flags", [TINY]),
    "reading the config": ("call launch.flags:_check_config", [TINY]),
    "listing data": ("call qsdt_jax.data.sources:FolderSource.__init__", [TINY, FOLDER_DATA]),
    "building": ("call qsdt_jax.assemble.data:build_source", [TINY]),
    "tracing": ("call qsdt_jax.models.backbone:Backbone.frames", [TINY]),
    "a verb that imports late": ("import qsdt_jax.deploy.bundle", ["predict", "--bundle=x.qsdt", "a.png"]),
    "help": ("import launch.export", ["export", "--help"]),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_one_line_and_status_130(name, tmp_path):
    moment, words = MOMENTS[name]
    train = words[0].startswith("--config=")
    extra = [f"--workdir={tmp_path}/w", f"--config.data.path={tmp_path}"] if train else []
    done = command(*words, *extra, moment=moment)
    assert (done.returncode, done.stderr, done.stdout) == (STATUS, f"{LINE}\n", ""), name
    assert list(tmp_path.iterdir()) == []


def test_prepare_says_how_to_go_on(tmp_path):
    (tmp_path / "in" / "train" / "a").mkdir(parents=True)
    words = ["prepare", "imagefolder", f"--source={tmp_path}/in", f"--out={tmp_path}/out"]
    done = command(*words, moment="call launch.prepare:find")
    assert done.returncode == STATUS
    assert done.stderr.splitlines()[1:] == ["interrupted; the same command goes on with what is left"]


SWALLOWED = """
import sys, os, gc, weakref
from launch import __main__ as command
import types
verb = types.ModuleType("launch.nothing")
class Thing: pass
def main():
    thing = Thing()
    weakref.finalize  # loaded
    keep = weakref.ref(thing, lambda _: os.kill(os.getpid(), 2))
    if {swallow!r} == "callback":
        del thing
    else:
        try:
            os.kill(os.getpid(), 2)
        except BaseException:
            if {swallow!r} == "other":
                raise RuntimeError("something else") from None
        os.kill(os.getpid(), 2)
    sys.stderr.write("went on")
verb.main = main
sys.modules["launch.nothing"] = verb
command.VERBS["nothing"] = "launch.nothing"
sys.argv = ["launch", "nothing"]
sys.exit(command.run())
"""


@pytest.mark.parametrize("swallow", ["callback", "other", "nothing"])
def test_an_interrupt_that_a_library_swallows_still_counts(swallow):
    """In a callback it would be ignored; made another error, told as that; the second one ends at once."""
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWED.format(swallow=swallow)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (done.returncode, done.stderr) == (STATUS, f"{LINE}\n")


TWICE = """
import os
from qsdt_jax.processes.preemption import Preemption
with Preemption():
    os.kill(os.getpid(), 2)
    os.kill(os.getpid(), 2)
    print("went on", flush=True)
"""


def test_in_training_the_second_one_stops_at_once():
    """Also within the save that follows the first: tests/train/test_resume.py."""
    done = subprocess.run([sys.executable, "-c", TWICE], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (STATUS, "")
    first, second = filter(None, done.stderr.splitlines())
    assert first == "SIGINT: saving and stopping (Ctrl-C again stops at once)"
    assert second.startswith("SIGINT again: stopped at once")
