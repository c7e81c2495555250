"""Commands in a process with two devices, whose number is fixed before the first of them is used."""

from pathlib import Path

import jax

from tests.launch.tiny import launch
from tests.train.runs import forked, printed_to


def on_two_devices(output: Path, *commands: tuple[object, ...]) -> None:
    """Runs the commands one after the other; what they print goes into a file."""
    process = forked(_launch, output, commands)
    process.join()
    assert process.exitcode == 0, output.read_text()


def _launch(output: Path, commands: tuple[tuple[object, ...], ...]) -> None:
    printed_to(output)
    jax.config.update("jax_num_cpu_devices", 2)
    for words in commands:
        assert launch(*words) == 0, words
    assert jax.device_count() == 2
