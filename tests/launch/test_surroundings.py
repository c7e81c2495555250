"""A mistake of the machine, or of its environment variables, is one line and status 2 like the user's own."""

import errno
import os
import shlex
import subprocess
import sys

import pytest

from launch import surroundings
from launch.surroundings import explained
from qsdt_jax.deploy import fold
from qsdt_jax.errors import UserError
from tests.launch.processes import ROOT, TINY, command
from tests.launch.tiny import draw_variables, make_state, tiny_config, write_data, write_workdir


@pytest.fixture
def network(tmp_path):
    """A workdir whose classes are not known, which is told."""
    workdir, config = tmp_path / "network", tiny_config(ema_decay=0.0)
    workdir.mkdir()
    write_workdir(workdir, config, {1: make_state(config, draw_variables(config, 0))})
    write_data(workdir, None)
    return workdir


PLUGIN = """
def initialize():
    raise RuntimeError("no driver of the device\\nmore about it")
"""


def refused(*words: object, **environment: str) -> str:
    """The one line of a command that is refused."""
    done = command(*words, **environment)
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("error: ").strip()


@pytest.mark.parametrize("platform", ["cuda", "gpu", "tpu", "nonsense"])
def test_a_device_that_is_not_there(platform, tmp_path):
    told = refused(TINY, f"--workdir={tmp_path}/w", JAX_PLATFORMS=platform)
    assert told.startswith(f"JAX_PLATFORMS={platform}: no such device here")
    assert "; there is cpu" in told and "Unset JAX_PLATFORMS" in told
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["inspect", TINY],
        ["bench", TINY, "--steps=1"],
        ["ablate", f"--config={ROOT}/configs/ablations/levels_timesteps.py", "--workdir=W"],
    ],
)
def test_every_verb_that_computes_says_so(words, tmp_path):
    words = [word.replace("=W", f"={tmp_path}/w") for word in words]
    assert refused(*words, JAX_PLATFORMS="cuda").startswith("JAX_PLATFORMS=cuda: no such device here")


@pytest.mark.parametrize("verb", ["eval", "export --out=F"])
def test_a_checkpoint_is_not_blamed_for_it(network, verb):
    words = [*verb.replace("=F", f"={network}/f").split(), f"--workdir={network}"]
    assert refused(*words, JAX_PLATFORMS="rocm").startswith("JAX_PLATFORMS=rocm: no such device here")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("XLA_FLAGS", "--xla_nonsense=3", "XLA_FLAGS=--xla_nonsense=3: Unknown flag in XLA_FLAGS"),
        ("JAX_ENABLE_X64", "perhaps", "JAX cannot be loaded (invalid truth value 'perhaps'"),
        ("JAX_NUM_CPU_DEVICES", "many", 'JAX cannot be loaded (Invalid value "many"'),
    ],
)
def test_variables_that_are_nonsense(name, value, told):
    assert refused("inspect", TINY, **{name: value}).startswith(told)


def test_flags_that_xla_knows_are_taken(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    surroundings._check_xla_flags()


def test_what_only_helps_is_left_out_with_a_line_at_most(tmp_path):
    """A cache that cannot be written, no home, a picture's window, no place for temporary files."""
    done = command(
        *("inspect", TINY),
        JAX_COMPILATION_CACHE_DIR="/proc/none",
        HOME="",
        TMPDIR=str(tmp_path / "none"),
        MPLBACKEND="module://not.here",
    )
    assert done.returncode == 0, done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("warning: JAX_COMPILATION_CACHE_DIR=/proc/none cannot be written")


def test_pictures_need_no_window(tmp_path):
    code = "from launch.surroundings import prepare_surroundings as p; p(); import matplotlib.pyplot"
    env = {**os.environ, "MPLBACKEND": "nonsense", "HOME": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_plug_in_that_cannot_start_takes_one_line(tmp_path):
    (tmp_path / "jax_plugins" / "broken").mkdir(parents=True)
    (tmp_path / "jax_plugins" / "broken" / "__init__.py").write_text(PLUGIN)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = command("inspect", TINY, PYTHONPATH=path)
    assert done.returncode == 0
    told = "Jax plugin configuration error: RuntimeError (no driver of the device)"
    assert [line for line in done.stderr.splitlines() if told in line] == done.stderr.splitlines() != []


def test_a_reader_that_has_seen_enough(tmp_path):
    words = shlex.join([sys.executable, "-m", "launch", "inspect", TINY])
    pipe = f"{words} | head -c 5; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", pipe], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("16x16141\n", "")


def test_a_full_disk_behind_the_output():
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "launch", "--help"]
        done = subprocess.run(words, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")


def test_a_full_disk_behind_the_messages(network, tmp_path):
    """A line that cannot be written changes nothing about the work, nor the status of a mistake."""
    words = ["eval", f"--workdir={network}"], ["eval", f"--workdir={tmp_path}/none"]
    with open("/dev/full", "w") as full:
        done = [
            subprocess.run([sys.executable, "-m", "launch", *some], cwd=ROOT, stdout=-1, stderr=full)
            for some in words
        ]
    assert [one.returncode for one in done] == [0, 2]
    assert done[0].stdout.startswith(b"top1 ") and done[1].stdout == b""


CLOSED = """
import os, sys
from launch.surroundings import prepare_surroundings
prepare_surroundings()
from qsdt_jax.progress import Progress
Progress(1, 0, 1).update(1, "told to nobody")
print("told to nobody", flush=True)
with open("file", "w") as file:
    file.write(str(file.fileno()))
"""


def test_streams_that_are_closed(tmp_path):
    """As a service may start it: nothing fails, and no file gets the number of a stream."""
    shell = shlex.join([sys.executable, "-c", CLOSED]) + " <&- >&- 2>&-"
    subprocess.run(shell, shell=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    assert int((tmp_path / "file").read_text()) > 2
    for words, status in (("eval --help", 0), (f"eval --workdir={tmp_path}/none", 2)):
        shell = f"{shlex.quote(sys.executable)} -m launch {words} <&- >&- 2>&-"
        assert subprocess.run(shell, shell=True, cwd=ROOT).returncode == status


def test_a_terminal_that_lacks_a_letter():
    code = "from launch.surroundings import prepare_surroundings as p; p(); print('caf\u00e9')"
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("caf\\xe9\n", "")


def test_packages_that_are_missing(tmp_path):
    """A module of that name that cannot be found, as where the package was never installed."""
    for name in ("tonic", "onnx", "tensorboardX"):
        told = explained(ModuleNotFoundError(f"No module named '{name}.x'", name=f"{name}.x"))
        assert told is not None and f"pip install {name}, or this project with its extra" in told
    told = explained(ImportError("libcudart.so.13: cannot open shared object", name="thing"))
    assert told == "a package cannot be loaded here (libcudart.so.13: cannot open shared object)"
    for bug in (
        ModuleNotFoundError("No module named 'launch.nowhere'", name="launch.nowhere"),
        ImportError("cannot import name 'x'", name="qsdt_jax.core"),
        AssertionError(),
        ValueError("a bug"),
    ):
        assert explained(bug) is None


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "", "/tmp/x"), "/tmp/x: No space left on device"),
        (PermissionError(errno.EACCES, "", "."), ".: Permission denied"),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
            "No usable temporary directory found in ['/tmp']; TMPDIR names one",
        ),
        (MemoryError("Unable to allocate 1 TiB"), "out of memory; "),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"),
            "out of memory on the device; ",
        ),
    ],
)
def test_what_the_machine_lacks(error, told):
    assert (explained(error) or "").startswith(told)


def test_folding_needs_the_cpu(monkeypatch):
    def none(backend):
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr("jax.local_devices", none)
    with pytest.raises(UserError, match=r"JAX_PLATFORMS.*leaves out the CPU"):
        fold.on_the_cpu()
