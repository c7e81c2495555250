"""Every door where data and a network come together: the labels mean the same classes, or nothing is done."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import launch.energy  # These define their flags before they are looked at.
import launch.export
import launch.information
import launch.merge
from qsdt_jax.workdir.checkpoint import Checkpointer
from tests.launch.tiny import draw_variables, launch, make_state, tiny_config, write_data, write_pth

pytestmark = pytest.mark.slow

TWELVE = tuple(str(number) for number in range(12))
AS_TEXT = tuple(sorted(TWELVE))  # 0, 1, 10, 11, 2, ..., as folders are.
WORDS = tuple("abcdefghijkl")


def folders(root: Path, names: tuple[str, ...], split: str = "val") -> Path:
    """One image of each class."""
    for number, name in enumerate(names):
        (root / split / name).mkdir(parents=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(root / split / name / "x.png")
    return root


def config_of(root: Path):
    return tiny_config(**{"data.source": "folder", "data.path": str(root), "ema_decay": 0.0})


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Path:
    """Of a network of twelve classes."""
    folder, config = tmp_path_factory.mktemp("trained") / "checkpoints", tiny_config(ema_decay=0.0)
    with Checkpointer(folder) as checkpointer:
        checkpointer.save(1, make_state(config, draw_variables(config, 1, 12)))
    return folder


@pytest.fixture
def network(tmp_path, checkpoints):
    """The workdir of a network of twelve classes, and a folder with a test image of each."""

    def make(stored: tuple[str, ...] | None, names: tuple[str, ...]) -> Path:
        config = config_of(folders(tmp_path / "data", names))
        workdir = tmp_path / "run"
        workdir.mkdir()
        (workdir / "config.json").write_text(config.to_json())
        write_data(workdir, stored)
        shutil.copytree(checkpoints, workdir / "checkpoints")
        return workdir

    return make


def listing(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() if file.is_file() else b"" for file in sorted(folder.rglob("*"))}


def refused(capsys, *words: object) -> str:
    assert launch(*words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("verb", ["eval", "energy", "merge", "information", "export"])
@pytest.mark.parametrize(
    ("stored", "names", "told"),
    [
        (TWELVE, AS_TEXT, "in another order: '10' where the network has '2'"),
        (WORDS, TWELVE, "other classes than"),
        (None, AS_TEXT, "do not stand in the order of their numbers"),
        (None, TWELVE[:7], "has 7 classes, but"),
    ],
)
def test_a_split_of_other_classes(network, tmp_path, capsys, verb, stored, names, told):
    workdir = network(stored, names)
    before = listing(tmp_path)
    words = [f"--out={tmp_path}/model.qsdt", "--verify=2"] if verb == "export" else []
    assert told in refused(capsys, verb, f"--workdir={workdir}", *words)
    assert listing(tmp_path) == before


def test_a_bundle_knows_whether_its_numbers_are_names(network, tmp_path, capsys):
    workdir, bundle = network(TWELVE, WORDS), f"--bundle={tmp_path}/model.qsdt"
    assert launch("export", f"--workdir={workdir}", f"--out={tmp_path}/model.qsdt") == 0
    capsys.readouterr()
    told = refused(capsys, "energy", bundle, f"--workdir={workdir}")
    assert f"other classes than {tmp_path}/model.qsdt: 'a' where the network has '0'" in told
    write_data(workdir, None)
    assert launch("export", f"--workdir={workdir}", f"--out={tmp_path}/model.qsdt") == 0
    assert launch("energy", bundle, f"--workdir={workdir}", f"--out={tmp_path}/energy") == 0
    assert "on trust" in capsys.readouterr().err


def test_the_published_case(tmp_path, capsys):
    """Only the test images are here, in folders that are named as those of ImageNet."""
    names = tuple(f"n{1440764 + 2779 * number:08}" for number in range(12))
    config = config_of(folders(tmp_path / "data", names))
    pth = write_pth(tmp_path / "published.pth", draw_variables(config, 0, 12))
    file = tmp_path / "config.py"
    file.write_text(
        "from tests.launch.test_doors import config_of\n"
        f"def get_config():\n    return config_of({str(tmp_path / 'data')!r})\n"
    )
    words = ["import-torch", f"--config={file}", f"--checkpoint={pth}"]
    assert launch(*words, f"--workdir={tmp_path}/ids") == 0
    assert "on trust" in capsys.readouterr().err
    assert launch("eval", f"--workdir={tmp_path}/ids") == 0
    assert "on trust" not in capsys.readouterr().err
    numbers = folders(tmp_path / "numbers", AS_TEXT)
    there = f"--config.data.path={numbers}"
    assert "order of their numbers" in refused(capsys, *words, there, f"--workdir={tmp_path}/numbered")
    assert not (tmp_path / "numbered").exists()
    given = tmp_path / "names.txt"
    given.write_text("\n".join(TWELVE))
    assert launch(*words, there, f"--class_names={given}", f"--workdir={tmp_path}/numbered") == 0
    capsys.readouterr()
    assert "in another order" in refused(capsys, "eval", f"--workdir={tmp_path}/numbered")


def test_predict_says_that_it_shows_numbers(network, tmp_path, capsys):
    workdir = network(None, WORDS)
    assert launch("predict", f"--workdir={workdir}", tmp_path / "data/val/a/x.png") == 0
    assert "are not known: they are shown as numbers" in capsys.readouterr().err


def test_training_on_an_import(network, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("qsdt_jax.train.loop._Session", lambda *_: pytest.fail("it was not seen"))
    workdir = network(WORDS[::-1], WORDS)
    folders(tmp_path / "data", WORDS, "train")
    file = tmp_path / "config.py"
    file.write_text(
        "from tests.launch.test_doors import config_of\n"
        f"def get_config():\n    return config_of({str(tmp_path / 'data')!r})\n"
    )
    words = [f"--config={file}", f"--workdir={workdir}", "--config.batch_size=4", "--config.epochs=30"]
    (workdir / "config.json").write_text(
        config_of(tmp_path / "data").to_json().replace('"batch_size": 64', '"batch_size": 4')
    )
    before = listing(workdir)
    assert "in another order: 'a' where the network has 'l'" in refused(capsys, *words)
    assert listing(workdir) == before
