"""From files as users have them to a trained network: prepare, train, kill, go on, evaluate."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import CACHE
from tests.data.prepare.files import ODDITIES, TRAIN, VALIDATION, aedat, kit, tar_of, write_files
from tests.data.prepare.test_cifar import TEN
from tests.launch.tiny import launch
from tests.train.runs import LIGHT, Signal, outcome, run


def imagenet(source: Path) -> list[str]:
    """The tars of ILSVRC 2012, one of its classes with the odd files of the real ones."""
    odd = {f"{min(TRAIN)}_odd_{name}": content for name, content in ODDITIES.items()}
    classes = {wnid: {**files, **(odd if wnid == min(TRAIN) else {})} for wnid, files in TRAIN.items()}
    tars = {
        "ILSVRC2012_img_train.tar": tar_of({f"{wnid}.tar": tar_of(x) for wnid, x in classes.items()}),
        "ILSVRC2012_img_val.tar": tar_of(VALIDATION),
        "ILSVRC2012_devkit_t12.tar.gz": tar_of(kit(), "w:gz"),
    }
    write_files(source, tars)
    return []


def cifar10(source: Path) -> list[str]:
    """The archive in the version for Python."""
    files = {f"cifar-10-batches-py/{name}": content for name, content in TEN.items()}
    write_files(source, {"cifar-10-python.tar.gz": tar_of(files, "w:gz")})
    return []


def cifar10dvs(source: Path) -> list[str]:
    """Recordings of two of the classes."""
    streams = {
        f"{name}/cifar10_{name}_{i}.aedat": aedat(
            [(97 * i + 31 * j) % 2**15 for j in range(64)], [*range(64)]
        )
        for name in ("cat", "dog")
        for i in range(10)
    }
    write_files(source, streams)
    events = {"events": True, "channels": 2, "augmentation": "flip_roll", "roll": 2}
    return ["--config.model.timesteps=2", *(f"--config.data.{key}={value}" for key, value in events.items())]


@pytest.mark.slow
@pytest.mark.parametrize("write", [imagenet, cifar10, cifar10dvs])
def test_prepared_trained_killed_and_evaluated(tmp_path, write: Callable[[Path], list[str]], capsys):
    name = write.__name__
    flags = write(tmp_path / "source")
    words = [name, "--source", tmp_path / "source", "--out", tmp_path / "out", "--allow_partial"]
    assert launch("prepare", *words) == 0
    data = ("--config.data.source=tfds", f"--config.data.path={tmp_path / 'out'}", *flags)
    values = {"epochs": 3, "eval.every_epochs": 3.0, "checkpoint.every_steps": 1}
    simpler = {
        "accumulate": 1,
        "ema_decay": 0.0,
        "model.drop_path": 0.0,
        "data.mixup": 0.0,
        "data.cutmix": 0.0,
    }
    length = tuple(f"--config.{key}={value}" for key, value in {**values, **simpler}.items())

    def train(workdir: Path, sent: Signal | None = None, extra: tuple[str, ...] = ()) -> None:
        ended = run(workdir, CACHE, *data, *length, *extra, signal=sent, config=LIGHT)
        assert ended.status == (-sent.number if sent else 0), ended

    # That nothing is different from an uninterrupted run is the matter of tests/train/test_resume.py.
    train(tmp_path / "killed", Signal(signal.SIGKILL, "logged", 2))
    train(tmp_path / "killed")
    ended = outcome(tmp_path / "killed")
    assert ended["step"] >= 3
    steps = [line["step"] for line in ended["log"] if "train/loss" in line]
    assert steps == list(range(1, ended["step"] + 1))

    if name == "cifar10":  # Its recipe begins with a trained network.
        train(tmp_path / "transferred", extra=(f"--config.start_from={tmp_path / 'killed'}",))
        logs = outcome(tmp_path / "transferred")["log"], ended["log"]
        first, drawn = (next(line["train/loss"] for line in log if "train/loss" in line) for log in logs)
        assert first != drawn  # The same batch, keys and program, but other weights.

    capsys.readouterr()
    result = tmp_path / "result.json"
    assert launch("eval", "--workdir", tmp_path / "killed", f"--json={result}") == 0
    split = "validation" if name == "imagenet" else "test"  # ImageNet's test images have no labels.
    assert f" images of the {split} split" in capsys.readouterr().err
    top1 = json.loads((tmp_path / "killed" / "summary.json").read_text())["final"]["eval/top1"]
    assert json.loads(result.read_text())["top1"] == top1
