import errno
import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from qsdt_jax.assemble.build import build_run
from qsdt_jax.errors import UserError
from qsdt_jax.workdir.profiling import Profile
from tests.configs.tiny import get_config


def traced(folder, steps, total: int) -> list[str]:
    """The files of a loop of some steps."""
    profile = Profile(steps, folder)
    for step in range(1, total + 1):
        profile.before(step)
        result = jnp.sin(jnp.arange(8.0))
        profile.after(step, result)
        if step == 4:
            found = len(list(folder.rglob("*.xplane.pb")))
    profile.close()
    assert found == (steps is not None and steps[1] <= 4)  # Written as soon as the last step is done.
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("steps", [(2, 3), (3, 9)])
def test_trace_that_perfetto_and_xprof_open(tmp_path, steps):
    """Also where the run ends before the last step to be traced."""
    files = traced(tmp_path, steps, 5)
    assert any(name.endswith(".xplane.pb") for name in files)
    [trace] = tmp_path.rglob("perfetto_trace.json.gz")
    assert json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]


def test_nothing_unless_asked(tmp_path):
    assert traced(tmp_path, None, 5) == []


def test_a_trace_that_fails_is_one_warning(tmp_path, monkeypatch, caplog):
    stop = jax.profiler.stop_trace

    def full_disk():
        stop()
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(jax.profiler, "stop_trace", full_disk)
    profile = Profile((1, 2), tmp_path / "profile")
    for step in (1, 2, 3):
        profile.before(step)
        profile.after(step, jnp.zeros(1))
    profile.close()
    assert caplog.messages == [
        f"no trace in {tmp_path / 'profile'}: No space left on device; the run does without"
    ]


def test_a_trace_that_does_not_start_is_one_warning(tmp_path, caplog):
    jax.profiler.start_trace(tmp_path / "other")  # There is one at a time.
    try:
        profile = Profile((1, 9), tmp_path / "profile")
        for step in (1, 2, 3):
            profile.before(step)
            profile.after(step, jnp.zeros(1))
        profile.close()
    finally:
        jax.profiler.stop_trace()
    [told] = caplog.messages
    assert told.startswith(f"no trace into {tmp_path / 'profile'}: ")


def test_config():
    config = get_config()
    assert build_run(config).profile_steps is None
    config.profile.steps = "10-15"
    assert build_run(config).profile_steps == (10, 15)
    for wrong in ("10", "15-10", "0-3", "a-b"):
        config.profile.steps = wrong
        with pytest.raises(UserError, match="must be FIRST-LAST, like 10-15"):
            build_run(config)
