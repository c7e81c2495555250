"""Networks saved as folders, and what is refused of these."""

import dataclasses
import json
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy

import qsdt_jax
from qsdt_jax.errors import UserError
from qsdt_jax.layers.bits_rules import BitsRule
from qsdt_jax.loading.saving import model_card
from qsdt_jax.workdir.checkpoint import Checkpointer
from qsdt_jax.workdir.provenance import code_version
from tests.launch.tiny import DIGITS, draw_variables, make_state, tiny_config, write_workdir


def test_saved_and_loaded_again_it_is_the_same_network(network, saved, images):
    again = qsdt_jax.load(saved)
    assert again.model == network.model and again.classes.names == DIGITS
    np.testing.assert_array_equal(again.predict(images).logits, network.predict(images).logits)
    qsdt_jax.save(again, saved)  # Over itself.
    np.testing.assert_array_equal(qsdt_jax.load(saved).predict(images).logits, again.predict(images).logits)


def test_the_card_says_what_it_is(saved):
    card = (saved / "README.md").read_text()
    for told in ("4-bit weights", "10 classes: 0, 1, 2", "Source: digits", "* step: 3", "qsdt_jax.load"):
        assert told in card
    assert str(saved.parent) not in card


def with_rules(network, *rules: BitsRule):
    backbone = network.model.backbone.clone(bits_rules=rules)
    task = dataclasses.replace(network.task, model=network.model.clone(backbone=backbone))
    return dataclasses.replace(network, task=task)


def test_the_card_tells_the_bits_of_all_layers(network):
    rules = BitsRule(pattern="head", bits=8), BitsRule(pattern="conv.*", bits=32)
    card = model_card(with_rules(network, *rules), {"saved_with": code_version()})
    assert "A classifier with 4-bit weights (`head`: 8-bit, `conv.*`: float) and spiking neurons" in card
    assert re.search(r"parameters, [1-9]\d*\.\d{3} M multiply-accumulates", card)


def test_the_card_scores_the_variables_that_were_saved(tmp_path):
    config = tiny_config(**{"data.path": "", "start_from": "", "eval.splits": ("test", "train")})
    workdir = write_workdir(tmp_path, config, {})
    metrics = {"eval/top1": 91.0, "eval_train/top1": 92.0, "eval_ema/top1": 93.0, "eval_ema_train/top1": 94.0}
    with Checkpointer(workdir / "checkpoints") as checkpointer:
        checkpointer.save(0, make_state(config, draw_variables(config, 1), draw_variables(config, 2)))
        checkpointer.add_metrics(0, metrics)
    for ema, expected in ((False, ("91", "92")), (True, ("93", "94"))):
        network = qsdt_jax.load(workdir, ema=ema)
        card = model_card(network, {**network.origin, "saved_with": code_version()})
        rows = re.findall(r"\| (\w+ top-1 \(%\)) \| (\d+) \|", card)
        assert rows == [("test top-1 (%)", expected[0]), ("train top-1 (%)", expected[1])]
        assert card.count("top-1") == 2


def test_places_of_the_machine_stay_at_home(network, tmp_path):
    config = network.config.copy_and_resolve_references()
    config.data.path = "/secret/place"
    qsdt_jax.save(dataclasses.replace(network, config=config), tmp_path / "saved")
    assert all("secret" not in file.read_bytes().decode("latin1") for file in (tmp_path / "saved").iterdir())


def damage(folder: Path, file: str, position: int) -> Path:
    content = bytearray((folder / file).read_bytes())
    content[position] ^= 1
    (folder / file).write_bytes(content)
    return folder


@pytest.mark.parametrize("position", [-1, -5000, 700, 100, 3])
def test_damage_is_one_line(saved, tmp_path, position):
    folder = damage(shutil.copytree(saved, tmp_path / "copy"), "model.safetensors", position)
    with pytest.raises(UserError) as caught:
        qsdt_jax.load(folder)
    assert "model.safetensors" in str(caught.value) and "\n" not in str(caught.value)


def test_another_configuration_is_told(saved, tmp_path):
    """As after a crash between the writes of the two files: one of now, one of before."""
    folder = shutil.copytree(saved, tmp_path / "copy")
    config = (folder / "config.json").read_text()
    assert '"levels": 4' in config
    (folder / "config.json").write_text(config.replace('"levels": 4', '"levels": 2'))
    with pytest.raises(UserError, match=r"config.json is not the one that model.safetensors was saved with"):
        qsdt_jax.load(folder)


def rewritten(folder: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> Path:
    (folder / "model.safetensors").write_bytes(safetensors.numpy.save(tensors, metadata))
    return folder


def contents(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with safetensors.safe_open(folder / "model.safetensors", framework="np") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118


def test_folders_from_before_open(saved, tmp_path):
    """Whose configuration has no checksum."""
    tensors, metadata = contents(saved)
    del metadata["crc32 of config.json"]
    folder = rewritten(shutil.copytree(saved, tmp_path / "copy"), tensors, metadata)
    assert qsdt_jax.load(folder).classes.names == DIGITS


def test_tensors_whose_names_make_no_tree_are_told(saved, tmp_path):
    tensors, metadata = contents(saved)
    tensors["params/head"] = np.zeros(1, np.float32)  # Beside "params/head/kernel".
    sums = {name: zlib.crc32(np.ascontiguousarray(tensors[name]).data) for name in sorted(tensors)}
    sums["about"] = zlib.crc32(metadata["about"].encode())
    folder = rewritten(
        shutil.copytree(saved, tmp_path / "copy"), tensors, {**metadata, "crc32": json.dumps(sums)}
    )
    with pytest.raises(UserError, match=r"does not fit the model; unknown \(1\): params/head"):
        qsdt_jax.load(folder)


def test_nothing_is_written_over(network, tmp_path):
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(UserError, match=r"holds thesis.txt; expected a new folder"):
        qsdt_jax.save(network, tmp_path)
    with pytest.raises(UserError, match="is a file; expected a folder"):
        qsdt_jax.save(network, tmp_path / "thesis.txt")


def test_models_of_other_libraries_are_not_written_over(network, tmp_path):
    """They lie under the same names."""
    for names in (["README.md"], ["config.json"], ["README.md", "config.json", "model.safetensors"]):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        content = safetensors.numpy.save({"weight": np.ones(2, np.float32)}, {"format": "pt"})
        for name in names:
            (folder / name).write_bytes(content)
        with pytest.raises(UserError, match=f"holds {names[0]}; expected a new folder, or one that `save`"):
            qsdt_jax.save(network, folder)
        assert all((folder / name).read_bytes() == content for name in names)
        assert len(list(folder.iterdir())) == len(names)
