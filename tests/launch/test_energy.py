import csv
import dataclasses
import json
import re
from pathlib import Path
from unittest import mock

import pytest
from PIL import Image

import launch.energy  # Both define their flags before they are looked at.
import launch.export
from qsdt_jax.assemble.tasks import build_task
from qsdt_jax.data.classes import numbers
from qsdt_jax.deploy.bundle import read_bundle, write_bundle
from qsdt_jax.models.sdtv2 import SDTV2
from qsdt_jax.tasks.task import variable_shapes
from tests.deploy.test_maps import bundle_of, small_program
from tests.launch.tiny import draw, launch, make_state, resformer_config, tiny_config, write_workdir

CONFIG = tiny_config()
DIGITS = Path(__file__).parents[1] / "golden" / "digits.qsdt"


def workdir_of(folder: Path, config=CONFIG) -> Path:
    variables = draw(variable_shapes(build_task(config, numbers(10))), 1)
    return write_workdir(folder, config, {1: make_state(config, variables, None)})


@pytest.mark.slow
def test_report_of_a_workdir_and_of_its_bundle(tmp_path, capsys):
    workdir = workdir_of(tmp_path)
    assert launch("energy", "--workdir", workdir, "--images=70") == 0
    table = told = capsys.readouterr().out
    assert "70 images of the test split, top-1 " in table
    assert "GMACs for an image of {}x{} pixels".format(*CONFIG.data.image_size) in table
    for name in ("paper", "as computed", "bit-aware", "with memory"):
        assert re.search(rf"^{name}: the spiking network needs [\d.]+ times (less|more)", table, re.M)
    folder = workdir / "energy"
    names = {"totals", "layers", "rates", "counts", "bubbles", "attention", "spikes"}
    assert {file.stem for file in folder.glob("*.png")} == names
    assert all(Image.open(folder / f"{name}.png").width > 500 for name in names)
    page = (folder / "energy.html").read_text()
    assert page.count("data:image/png;base64,") == len(names)
    assert not re.search(r'(src|href)="(?!data:)', page)  # It stands alone.
    for table in ("energy.csv", "neurons.csv"):
        with open(folder / table) as file:
            assert len(list(csv.DictReader(file))) > 30
    with open(folder / "neurobench.csv") as file:
        counts = {row["name"]: float(row["number"]) for row in csv.DictReader(file)}
    assert len(counts) == 5 and all(f"{count:,.0f}" in told for count in counts.values() if count > 1)
    with open(folder / "levels.csv") as file:
        levels = [(row["part"], row["stride"]) for row in csv.DictReader(file)]
    assert levels[0] == ("downsample1_1", "2") and len(levels) == len(set(levels)) > 8

    # Its bundle is measured alike, whatever a configuration says of how to prepare the data it names.
    bundle, other = tmp_path / "model.qsdt", tmp_path / "other"
    assert launch("export", "--workdir", workdir, "--out", bundle) == 0
    prepared = {"image_size": (48, 32), "mean": (0.2,), "std": (0.7,), "eval_crop_ratio": 0.5}
    config = tiny_config(**{f"data.{key}": value for key, value in prepared.items()})
    only_config = bare_workdir(other, config)
    assert launch("energy", "--workdir", only_config, "--bundle", bundle, "--images=70") == 0
    assert (other / "energy" / "energy.csv").read_text() == (folder / "energy.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("network", ["SDT-V2", "SpikingResformer"])
def test_a_network_that_cannot_be_folded_is_measured_as_it_is_trained(network, tmp_path, capsys):
    config = resformer_config(**{"model.timesteps": 2})
    if network == "SDT-V2":
        config = tiny_config(**{f"model.{name}": value for name, value in SDTV2.items()})
    assert launch("energy", "--workdir", workdir_of(tmp_path, config), "--images=20") == 0
    told = capsys.readouterr()
    assert "measured as it is trained: " in told.err and " float" in told.err
    assert "float-bit weights" not in told.out and "measured as it is trained, because it" in told.out
    names = {"totals", "layers", "rates", "counts"}
    assert {file.stem for file in (tmp_path / "energy").glob("*.png")} == names
    with open(tmp_path / "energy" / "energy.csv") as file:
        rows = {row["layer"]: row for row in csv.DictReader(file)}
    products = {row["layer"] for row in rows.values() if row["kind"] == "attention"}
    assert len(products) == (4 if network == "SDT-V2" else 6)
    assert float(rows["downsample2/conv"]["additions"]) > 0 and rows["downsample2/conv"]["bits"] == "32"
    assert launch("export", "--workdir", tmp_path, "--out", tmp_path / "out.qsdt") == 2
    assert "float" in capsys.readouterr().err


@pytest.mark.slow
def test_another_network_beside(tmp_path, capsys):
    """Its own bundle, a network that cannot be folded, and one of another task."""
    for folder in ("run", "v2"):
        (tmp_path / folder).mkdir()
    workdir, bundle = workdir_of(tmp_path / "run"), tmp_path / "model.qsdt"
    assert launch("export", "--workdir", workdir, "--out", bundle) == 0
    other = workdir_of(
        tmp_path / "v2", tiny_config(**{f"model.{name}": value for name, value in SDTV2.items()})
    )
    capsys.readouterr()
    found = {}
    for beside in (bundle, other):
        out = tmp_path / f"beside_{beside.stem}"
        arguments = ["--images=10", "--out", out, "--profile=horowitz_float32"]
        assert launch("energy", "--workdir", workdir, "--against", beside, *arguments) == 0
        told = capsys.readouterr().out
        assert "45 nm, all arithmetic in float32: " in told and f"beside {beside}: the spike counts" in told
        with open(out / "distances.csv") as file:
            found[beside] = [float(row["distance"]) for row in csv.DictReader(file)]
        assert "earth mover" in (out / "energy.html").read_text()
    assert set(found[bundle]) == {0.0} and len(found[bundle]) > 20
    assert max(found[other]) > 0
    maps = tmp_path / "maps.qsdt"
    write_bundle(maps, bundle_of(small_program()))
    words = ("--workdir", workdir, "--images=10", "--against", maps)
    assert "tells classes of pixels" in refused(capsys, *words)
    assert f"{maps}x is not there; expected a workdir or a bundle" in refused(capsys, *words[:-1], f"{maps}x")
    colours = tmp_path / "colours"
    colours.mkdir()
    workdir_of(colours, tiny_config(**{"data.channels": 3, "data.mean": (0.5,), "data.std": (0.5,)}))
    told = f"{colours} takes 3 channels, but the data's configuration has config.data.channels=1"
    with mock.patch("qsdt_jax.verification.measured.bundle_of", side_effect=AssertionError("too late")):
        assert told in refused(capsys, *words[:-1], colours)


def bare_workdir(folder: Path, config) -> Path:
    """A configuration and no checkpoint."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return folder


def refused(capsys, *arguments) -> str:
    assert launch("energy", *arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1
    return told


def test_mistakes_are_one_line(tmp_path, capsys):
    for arguments, told in [
        ([], "needs --workdir DIR, or --bundle FILE and its data, --config FILE or --workdir DIR"),
        (["--bundle", DIGITS], "--bundle needs --config FILE or --workdir DIR, which name its data"),
        (["--bundle", DIGITS, "--config=configs/digits.py", "--workdir", tmp_path], "its data; got both"),
        (["--workdir", tmp_path, "--config=configs/digits.py"], "a --workdir has its own"),
        (["--bundle", DIGITS, "--config=configs/digits.py", "--ema"], "a bundle holds one network"),
        (["--bundle", DIGITS, "--config=configs/digits.py", "--step=3"], "a bundle holds one network"),
    ]:
        assert told in refused(capsys, *arguments)
    told = refused(capsys, "--workdir", tmp_path, "--profile=horowitz_widht")
    assert "found 'horowitz_widht'; did you mean 'horowitz_widths'?" in told
    config = tiny_config(**{"model.bits": 32, "model.neuron": "relu", "model.attention": "softmax"})
    assert "float weights (bits=32)" in refused(capsys, "--workdir", workdir_of(tmp_path, config))


def test_bundle_for_other_data_is_refused(tmp_path, capsys):
    colour = bare_workdir(tmp_path / "colour", tiny_config(**{"data.channels": 3}))
    told = refused(capsys, "--bundle", DIGITS, "--workdir", colour)
    assert " takes 1 channels, but the configuration of its data has config.data.channels=3" in told
    bundle = read_bundle(DIGITS)
    letters = dataclasses.replace(bundle, class_names=("0", "1", *"CDEFGHIJ"))
    write_bundle(tmp_path / "letters.qsdt", letters)
    data = ["--config=configs/digits.py", "--out", tmp_path]
    told = refused(capsys, "--bundle", tmp_path / "letters.qsdt", *data)
    assert f"the test split has other classes than {tmp_path / 'letters.qsdt'}: '2' where" in told
    assert "where the network has 'C'" in told


def test_bundle_of_another_task_is_refused(tmp_path, capsys):
    of_pixels = tmp_path / "maps.qsdt"
    write_bundle(of_pixels, bundle_of(small_program()))
    for bundle, config, kind, task in [
        (DIGITS, "tests/configs/tiny_seg.py", "images", "semantic_segmentation"),
        (of_pixels, "tests/configs/tiny.py", "pixels", "classification"),
    ]:
        told = refused(capsys, "--bundle", bundle, f"--config={config}", "--out", tmp_path)
        assert f"{bundle} tells classes of {kind}, but" in told
        assert f"config.task.name={task!r}" in told
