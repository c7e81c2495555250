"""Networks opened and saved as a library."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from PIL import Image

import qsdt_jax
from qsdt_jax.assemble.deployed import bundle_of
from qsdt_jax.assemble.trained import load_trained, scores
from qsdt_jax.data.images import normalize
from qsdt_jax.data.sources import DigitsSource
from qsdt_jax.deploy.bundle import write_bundle
from qsdt_jax.errors import UserError
from tests.launch.tiny import DIGITS, draw_variables, make_state, tiny_config, write_pth, write_workdir

CONFIG = tiny_config(**{"data.path": "", "start_from": ""})
STAGES = {
    "stem": (16, 16, 4),
    "stage1": (8, 8, 8),
    "stage2": (4, 4, 8),
    "stage3": (2, 2, 16),
    "stage4": (2, 2, 16),
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    variables, ema = draw_variables(CONFIG, 1), draw_variables(CONFIG, 2)
    state = make_state(CONFIG, variables, ema)
    return write_workdir(tmp_path_factory.mktemp("run"), CONFIG, {0: state, 3: state})


@pytest.fixture(scope="module")
def network(workdir):
    return qsdt_jax.load(workdir)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [np.asarray(DigitsSource("test")[i]["image"]) for i in range(3)]


@pytest.fixture(scope="module")
def saved(network, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "saved"
    qsdt_jax.save(network, folder)
    return folder


def test_a_workdir_predicts_as_its_network_does(network, workdir, images):
    found = network.predict(images)
    inputs = [normalize(i, network.preprocess.mean, network.preprocess.std) for i in images]
    trained = load_trained(workdir)
    # With another number of rows, on which nothing may depend.
    expected = scores(trained.task.model, trained.variables, np.stack([*inputs, *inputs]))[:3]
    np.testing.assert_array_equal(found.logits, expected)
    assert len(found) == 3 and found.class_names == DIGITS
    np.testing.assert_allclose(found.probabilities.sum(-1), 1, rtol=1e-12)
    for row, logits, chances in zip(found.top(2), found.logits, found.probabilities, strict=True):
        assert [name for name, _ in row] == [DIGITS[k] for k in np.argsort(-logits)[:2]]
        assert row[0][1] == chances.max()


def test_images_come_as_files_pictures_and_arrays(network, images, tmp_path):
    grey = images[0][..., 0]
    Image.fromarray(grey).save(tmp_path / "a.png")
    picture = Image.fromarray(grey)
    alike = [tmp_path / "a.png", str(tmp_path / "a.png"), picture, picture.convert("RGB"), grey, images[0]]
    logits = network.predict(alike).logits
    assert (logits == logits[0]).all()
    for one in (picture, images[0], grey, str(tmp_path / "a.png")):
        np.testing.assert_array_equal(network.predict(one).logits, logits[:1])
    np.testing.assert_array_equal(network.predict(np.stack([images[0]] * 2)).logits, logits[:2])


def test_features_are_the_stages(network, images):
    found = network.features(images)
    assert {name: x.shape[1:] for name, x in found.items()} == STAGES
    assert all(len(x) == 3 for x in found.values())
    assert not np.array_equal(found["stage4"][0], found["stage4"][1])


def test_steps_and_moving_averages_are_chosen(network, workdir, images):
    assert network.origin["step"] == 3
    assert qsdt_jax.load(workdir, step=0).origin["step"] == 0
    average = qsdt_jax.load(str(workdir), ema=True)
    assert not np.array_equal(average.predict(images).logits, network.predict(images).logits)


def test_a_bundle_predicts_the_same(network, workdir, images, tmp_path):
    write_bundle(tmp_path / "model.qsdt", bundle_of(load_trained(workdir)))
    bundle = qsdt_jax.load(tmp_path / "model.qsdt")
    np.testing.assert_array_equal(bundle.predict(images).logits, network.predict(images).logits)
    assert bundle.predict(images).class_names == DIGITS and bundle.preprocess.size == (32, 32)
    with pytest.raises(UserError, match=r"model.qsdt is a bundle, which gives no features"):
        bundle.features(images)
    with pytest.raises(UserError, match="a bundle is a file already"):
        qsdt_jax.save(bundle, tmp_path / "out")


def test_a_published_file_tells_its_own_sizes(tmp_path):
    variables = draw_variables(CONFIG, 1)
    path = write_pth(tmp_path / "net.pth", variables)
    network = qsdt_jax.load(path, num_heads=4)
    model = network.model.backbone
    assert (model.channels, model.depth, model.in_channels) == ((8, 8, 16, 16), 2, 1)
    assert (network.model.num_classes, model.num_heads, model.bits) == (10, 4, 4)
    np.testing.assert_array_equal(
        network.variables["params"]["head"]["kernel"], variables["params"]["head"]["kernel"]
    )
    assert network.classes.names is None and network.preprocess.size == (224, 224)
    with pytest.raises(UserError, match="a network has no field 'num_head'; did you mean 'num_heads'"):
        qsdt_jax.load(path, num_head=4)
    with pytest.raises(UserError, match="it has no choice of step"):
        qsdt_jax.load(path, step=3)


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


def test_wrong_places_are_told(saved, tmp_path):
    def refusal(path) -> str:
        with pytest.raises(UserError) as caught:
            qsdt_jax.load(path)
        return str(caught.value)

    assert refusal(tmp_path / "no") == f"{tmp_path / 'no'}: no such file or folder"
    assert "holds no network: expected config.json with checkpoints" in refusal(tmp_path)
    assert refusal(tmp_path).endswith("found nothing")
    (tmp_path / "notes.txt").write_text("hello")
    assert "is neither a bundle (.qsdt) nor a PyTorch checkpoint" in refusal(tmp_path / "notes.txt")
    (tmp_path / "x.pth").write_bytes(b"PK\x03\x04 cut")
    assert "damaged or cut off" in refusal(tmp_path / "x.pth")
    (tmp_path / "x.qsdt").write_bytes(b"something else")
    assert refusal(tmp_path / "x.qsdt").startswith(f"bundle {tmp_path / 'x.qsdt'}:")
    half = tmp_path / "half"
    half.mkdir()
    shutil.copy(saved / "model.safetensors", half)
    assert "config.json" in refusal(half)


def test_a_file_of_another_network_is_told(tmp_path):
    variables = draw_variables(CONFIG, 1)
    for layer in ("downsample2", "head"):
        other = {**variables, "params": {k: v for k, v in variables["params"].items() if k != layer}}
        path = write_pth(tmp_path / f"{layer}.pth", other)
        with pytest.raises(UserError, match=re.escape(f"{path} is not of this network: it has no tensor")):
            qsdt_jax.load(path)


def test_images_that_are_none_are_told(network, tmp_path):
    (tmp_path / "a.png").write_text("no image")
    for images, told in (
        ([], "no images"),
        (tmp_path / "a.png", "not a readable image"),
        (tmp_path / "b.png", "no such image file"),
        (
            np.zeros((8, 8), np.float32),
            r"expected a uint8 array \(H, W, C\) .* found float32 \(8, 8\)",
        ),
        ([np.zeros((8, 8, 5), np.uint8)], r"found uint8 \(8, 8, 5\)"),
        ([7], "expected a file, a Pillow image or an array, found int"),
    ):
        with pytest.raises(UserError, match=told):
            network.predict(images)


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


INSTALLED = """
import json, sys
import qsdt_jax, numpy as np
assert not ({"launch", "configs", "tests"} & {name.split(".")[0] for name in sys.modules})
network = qsdt_jax.load(sys.argv[1])
qsdt_jax.save(network, "again")
logits = qsdt_jax.load("again").predict(np.arange(64, dtype=np.uint8).reshape(8, 8)).logits
try:
    import launch
except ModuleNotFoundError:
    print(json.dumps(logits.tolist()))
"""


def test_the_installed_package_alone_is_enough(network, workdir, tmp_path):
    """Where neither launch/ nor configs/ is."""
    packages = tmp_path / "packages"
    source = Path(qsdt_jax.__file__).parent
    shutil.copytree(source, packages / "qsdt_jax", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(packages)!r})\n{INSTALLED}"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*command, str(workdir)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert json.loads(done.stdout) == network.predict(image).logits.tolist()
