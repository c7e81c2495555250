"""The verb that measures the spikes of a checkpoint."""

import pytest

from qsdt_jax.models.sdtv2 import SDTV2
from tests.launch.tiny import draw_variables, launch, make_state, tiny_config, write_workdir


@pytest.mark.slow
@pytest.mark.parametrize("network", [{}, {**SDTV2, "timesteps": 2}], ids=["QSD", "SDT-V2"])
def test_a_line_for_each_head_and_a_picture(tmp_path, capsys, network):
    config = tiny_config(**{"data.classes": ("0", "1"), "eval.batch_size": 40, "ema_decay": 0.0})
    config.model.exact_evaluation = False
    config.model.update(network)
    write_workdir(tmp_path, config, {2: make_state(config, draw_variables(config, 0, classes=2))})
    picture = tmp_path / "histograms.png"
    assert launch("information", f"--workdir={tmp_path}", f"--png={picture}") == 0
    title, header, *heads, spikes = capsys.readouterr().out.splitlines()
    assert title == f"{tmp_path}, step 2, before -> after rectification"
    assert header.split()[0] == "head"
    names = [f"{block}/attn/{x}" for block in ("block3_0", "block4_0") for x in "qkv"]
    assert [line.split()[:2] for line in heads] == [[name, str(h)] for name in names for h in range(4)]
    assert spikes.endswith(" spikes an image in 35 layers of neurons") and spikes[0] != "0"
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "information needs --workdir DIR"),
        (["--workdir=/nowhere"], "workdir /nowhere: no such directory"),
        (["--workdir=w", "--png=/nowhere/a.png"], "--png /nowhere/a.png cannot be written"),
    ],
)
def test_mistakes(capsys, arguments, told):
    assert launch("information", *arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {told}")
