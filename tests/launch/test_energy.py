import csv
import re
from pathlib import Path

import pytest
from PIL import Image

import launch.energy  # Both define their flags before they are looked at.
import launch.export
from tests.launch.tiny import draw_variables, launch, make_state, tiny_config, write_workdir

CONFIG = tiny_config()
DIGITS = Path(__file__).parents[1] / "golden" / "digits.qsdt"


def workdir_of(folder: Path, config=CONFIG) -> Path:
    return write_workdir(folder, config, {1: make_state(config, draw_variables(config, 1), None)})


@pytest.mark.slow
def test_report_of_a_workdir_and_of_its_bundle(tmp_path, capsys):
    workdir = workdir_of(tmp_path)
    assert launch("energy", "--workdir", workdir, "--images=70") == 0
    table = capsys.readouterr().out
    assert "70 images of the test split, top-1 " in table
    for name in ("paper", "as computed", "bit-aware", "with memory"):
        assert re.search(rf"^{name}: the spiking network needs [\d.]+ times (less|more)", table, re.M)
    folder = workdir / "energy"
    names = {"totals", "layers", "rates", "counts", "bubbles", "attention", "spikes"}
    assert {file.stem for file in folder.glob("*.png")} == names
    assert all(Image.open(folder / f"{name}.png").width > 500 for name in names)
    page = (folder / "energy.html").read_text()
    assert page.count("data:image/png;base64,") == len(names)
    assert not re.search(r'(src|href)="(?!data:)', page)  # It stands alone.
    with open(folder / "energy.csv") as file:
        assert len(list(csv.DictReader(file))) > 50

    bundle, other = tmp_path / "model.qsdt", tmp_path / "other"
    assert launch("export", "--workdir", workdir, "--out", bundle) == 0
    assert launch("energy", "--workdir", workdir, "--bundle", bundle, "--images=70", "--out", other) == 0
    assert (other / "energy.csv").read_text() == (folder / "energy.csv").read_text()


def test_mistakes_are_one_line(tmp_path, capsys):
    assert launch("energy") == 2
    assert (
        capsys.readouterr().err == "error: energy needs --workdir DIR, whose configuration names the data\n"
    )
    config = tiny_config(**{"model.bits": 32})
    assert launch("energy", "--workdir", workdir_of(tmp_path, config)) == 2
    assert "float weights (bits=32)" in capsys.readouterr().err


def test_bundle_for_other_inputs_is_refused(tmp_path, capsys):
    workdir = workdir_of(tmp_path, tiny_config(**{"data.image_size": (16, 48)}))
    assert launch("energy", "--workdir", workdir, "--bundle", DIGITS) == 2
    told = "size and channels ((32, 32), 1), but the data of the workdir give ((16, 48), 1)"
    assert told in capsys.readouterr().err
