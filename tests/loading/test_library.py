"""Networks opened as a library."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import qsdt_jax
from qsdt_jax.data.images import normalize
from qsdt_jax.deploy.bundle import write_bundle
from qsdt_jax.errors import UserError
from qsdt_jax.interop import to_torch
from qsdt_jax.loading.deployed import bundle_of
from qsdt_jax.loading.trained import load_trained
from qsdt_jax.models import create_model
from qsdt_jax.models.shapes import variable_shapes
from tests.launch.tiny import DIGITS, draw, draw_variables, write_pth
from tests.loading.conftest import CONFIG

STAGES = {
    "stem": (16, 16, 4),
    "stage1": (8, 8, 8),
    "stage2": (4, 4, 8),
    "stage3": (2, 2, 16),
    "stage4": (2, 2, 16),
}


def test_a_workdir_predicts_as_its_network_does(network, workdir, images):
    found = network.predict(images)
    inputs = [normalize(i, network.preprocess.mean, network.preprocess.std) for i in images]
    trained = load_trained(workdir)
    # With another number of rows, on which nothing may depend.
    expected = trained.outputs({"image": np.stack([*inputs, *inputs])})[:3]
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
    np.testing.assert_array_equal(network.predict(tmp_path.glob("*.png")).logits, logits[:1])
    assert len(network.features(iter(images))["stem"]) == len(images)


def test_features_are_the_stages(network, images):
    found = network.features(images)
    assert {name: x.shape[1:] for name, x in found.items()} == STAGES
    assert all(len(x) == 3 for x in found.values())
    assert not np.array_equal(found["stage4"][0], found["stage4"][1])


@pytest.mark.parametrize("step", ["foo", -1])
def test_steps_that_are_none_are_told(workdir, step):
    with pytest.raises(UserError, match=f"^step '{step}' is none of latest, best, or a number from 0 on$"):
        qsdt_jax.load(workdir, step=step)


def test_paths_with_a_null_character_are_told(network):
    for use in (qsdt_jax.load, network.predict, lambda path: qsdt_jax.save(network, path)):
        with pytest.raises(UserError, match=r"^'a\\x00b' is no path: it has a null character$"):
            use("a\0b")


def test_steps_and_moving_averages_are_chosen(network, workdir, images):
    assert network.origin["step"] == 3
    assert qsdt_jax.load(workdir, step=0).origin["step"] == 0
    average = qsdt_jax.load(str(workdir), ema=True)
    assert not np.array_equal(average.predict(images).logits, network.predict(images).logits)


@pytest.mark.slow
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
    with pytest.raises(UserError, match=r"net.pth is a published checkpoint: it has no choice of step"):
        qsdt_jax.load(path, step=3)
    with pytest.raises(UserError, match=r"^bits: expected int, found 'four'$"):
        qsdt_jax.load(path, bits="four")


@pytest.mark.slow
def test_a_published_file_without_layer_scales_is_of_sdtv2(tmp_path):
    """Its names tell neuron and attention; how many time steps, they do not."""
    of_file = create_model(
        "sdtv2_s", channels=(8, 8, 16, 16), depth=2, mlp_ratio=2, num_classes=5, distillation_head=True
    )
    shapes: Any = variable_shapes(of_file)
    drawn = np.random.default_rng(3)
    variables = jax.tree.map(lambda leaf: drawn.uniform(0.5, 1, leaf.shape).astype(leaf.dtype), shapes)
    path = write_pth(tmp_path / "net.pth", variables)
    for timesteps in (1, 4):
        network = qsdt_jax.load(path, timesteps=timesteps)
        backbone = of_file.backbone.clone(timesteps=timesteps)
        assert network.model == of_file.clone(backbone=backbone)
    images = drawn.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    assert np.isfinite(network.predict(images).logits).all()
    qsdt_jax.save(network, tmp_path / "saved")
    again = qsdt_jax.load(tmp_path / "saved")
    assert again.model == network.model
    np.testing.assert_array_equal(again.predict(images).logits, network.predict(images).logits)


RESFORMER: dict[str, Any] = {
    "channels": (8, 8, 16),
    "num_heads": (1, 1, 2),
    "depths": (1, 1, 1),
    "group_size": 8,
    "num_classes": 10,
}


def write_resformer(file: Path, small_images: bool) -> tuple[Any, Path]:
    """A network with firing rates, and its file."""
    model = create_model("spikingresformer_s", **RESFORMER, small_images=small_images)
    variables = draw(variable_shapes(model), 5)
    statistics = jax.tree.map(lambda x: np.full_like(x, 0.3) if x.size <= 2 else x, variables["batch_stats"])
    return model, write_pth(file, {**variables, "batch_stats": statistics})


@pytest.mark.parametrize(
    ("small", "size", "crop", "mean"),
    [(False, (224, 224), 0.95, (0.485, 0.456, 0.406)), (True, (32, 32), 1.0, (0.4914, 0.4822, 0.4465))],
)
def test_a_published_file_of_spikingresformer_tells_its_own_sizes(small, size, crop, mean, tmp_path):
    of_file, path = write_resformer(tmp_path / "net.pth", small)
    network = qsdt_jax.load(path)
    assert network.model == of_file and of_file.timesteps == 4
    preprocess = network.preprocess
    assert (preprocess.size, preprocess.evaluation_crop_ratio, preprocess.mean) == (size, crop, mean)
    asked = {"timesteps": 2, "nominal_size": 64}
    assert qsdt_jax.load(path, **asked).model == of_file.clone(**asked)
    with pytest.raises(UserError, match="a network has no field 'num_head'; did you mean 'num_heads'"):
        qsdt_jax.load(path, num_head=4)
    with pytest.raises(UserError, match=r"^config\.model\.bits=2, but config\.resformer\.channels asks for"):
        qsdt_jax.load(path, bits=2)


def test_a_published_file_of_spikingresformer_answers(tmp_path):
    of_file, path = write_resformer(tmp_path / "net.pth", True)
    network = qsdt_jax.load(path)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    found = network.predict(images)
    inputs = [normalize(image, network.preprocess.mean, network.preprocess.std) for image in images]
    expected = jax.jit(of_file.apply)(network.variables, np.stack(inputs))
    np.testing.assert_allclose(found.logits, expected, rtol=1e-5, atol=1e-6)
    assert np.ptp(found.logits, axis=0).min() > 0
    stages = {name: maps.shape for name, maps in network.features(images).items()}
    assert stages == {
        "stem": (2, 32, 32, 8),
        "stage1": (2, 32, 32, 8),
        "stage2": (2, 16, 16, 8),
        "stage3": (2, 8, 8, 16),
    }
    qsdt_jax.save(network, tmp_path / "saved")
    again = qsdt_jax.load(tmp_path / "saved")
    assert again.model == network.model and "# SpikingResformer" in (tmp_path / "saved/README.md").read_text()
    np.testing.assert_array_equal(again.predict(images).logits, found.logits)


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


def test_a_damaged_file_is_not_taken_for_one_of_sdtv2(tmp_path):
    """A file with step sizes is of the quantised network, whatever else it lacks."""
    variables = draw_variables(CONFIG, 1)
    tensors = {name for name in to_torch(variables) if "layer_scale" in name}
    assert len(tensors) == 4
    path = write_pth(tmp_path / "net.pth", variables, without=tensors)
    with pytest.raises(UserError, match=r"does not fit the model; missing \(4\): block3\.0\.layer_scale1"):
        qsdt_jax.load(path, num_heads=4)


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
        (np.zeros((0, 8), np.uint8), r"image 0: expected a uint8 array .* found uint8 \(0, 8\)"),
        ([np.zeros((8, 0, 3), np.uint8)], r"image 0: expected a uint8 array .* found uint8 \(8, 0, 3\)"),
        (Image.new("L", (0, 5)), "image 0: expected pixels, found an image of 0x5"),
        (None, "expected an image or several of them, found NoneType"),
        (5, "expected an image or several of them, found int"),
        (np.uint8(3), "expected an image or several of them, found uint8"),
        ([7], "expected a file, a Pillow image or an array, found int"),
    ):
        with pytest.raises(UserError, match=told):
            network.predict(images)


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
