import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from configs import imagenet_l, imagenet_m, imagenet_s
from launch.inspect import _class_count
from qsdt_jax.assemble.tasks import build_task
from qsdt_jax.core.exact import Whole
from qsdt_jax.errors import UserError
from qsdt_jax.inspect.activations import kept_bytes
from qsdt_jax.inspect.modules import block_rows, layer_rows, stored_bytes
from qsdt_jax.layers.lowering import ConvGeometry
from qsdt_jax.layers.product import scaled_convolution
from qsdt_jax.models import SIZES
from qsdt_jax.models.operations import layer_operations
from qsdt_jax.tasks.task import variable_shapes
from tests.launch.tiny import DIGITS, launch, tiny_config

ROOT = Path(__file__).parents[2]
IMAGENET_S = f"--config={ROOT}/configs/imagenet_s.py"
DIGITS_CONFIG = f"--config={ROOT}/configs/digits.py"


def traced(**overrides):
    """Task, variables' shapes and layers of a tiny network."""
    config = tiny_config(**overrides)
    task = build_task(config, DIGITS)
    variables = variable_shapes(task)
    return task, variables, layer_operations(task.model, tuple(config.data.image_size))


def number(text: str) -> int:
    return int(text.replace(",", ""))


@pytest.mark.slow
def test_size_s(capsys):
    assert launch("inspect", IMAGENET_S, "--batch=2", "--config.distill.teacher=runs/twin") == 0
    text = capsys.readouterr().out
    for value in ("15,160,432", "15,015,072 in 138", "8.09 MB", "60.47 MB", "7.48 times", "1.83", "6.473 G"):
        assert value in text
    assert "1000 classes (assumed" in text
    assert "norm_group 196 does not divide the batch" in text and "without the teacher" in text
    assert re.search(r"block4_1 +14x14x360 +2,107,440 +4 +415.3 +75 % spikes", text)
    # Weights and two moments in float32, running statistics, two images and labels.
    state = (3 * 15_160_432 + 84_016 + 2 * 224 * 224 * 3) * 4 / 1e6
    assert f"{state:.1f} MB state and batch" in text


@pytest.mark.slow
def test_a_spiking_resformer(capsys):
    """10,793,152 parameters are those of the published class."""
    config = IMAGENET_S.replace("imagenet_s.py", "cifar_resformer.py")
    assert launch("inspect", config, "--batch=2", "--num_classes=10", "--config.model.norm_group=0") == 0
    text = capsys.readouterr().out
    for value in ("32x32x3 images, 10 classes", "float weights, D = 1, T = 4", "10,793,152", "in 34 layers"):
        assert value in text
    assert re.search(r"head +10 +3,840 +32 ", text) and "kept for the backward pass" in text


def test_rows_add_up_to_the_network():
    _, variables, layers = traced(**{"model.bits": 2})
    live = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    blocks, rows = block_rows(layers, variables), layer_rows(layers, variables)
    assert sum(number(row[2]) for row in blocks) == live
    assert sum(number(row[2]) for row in rows) == live
    assert {row[0] for row in blocks} == set(variables["params"])
    assert [row[0] for row in rows[:-1]] == [layer.name for layer in layers]
    assert {row[3] for row in rows[:-1]} == {"2", "-"}
    assert blocks[0] == ("downsample1_1", "16x16x4", blocks[0][2], "2", "0.1", "real")
    assert blocks[-1][0::5] == ("head", "spikes")


@pytest.mark.parametrize(("bits", "scaled"), [(1, True), (3, True), (4, True), (32, False)])
def test_stored_bytes(bits, scaled):
    _, variables, layers = traced(**{"model.bits": bits})
    flat = jax.tree_util.tree_leaves_with_path(variables["params"])
    kernels = [leaf for path, leaf in flat if path[-1].key == "kernel"]
    others = sum(leaf.size for path, leaf in flat if path[-1].key not in ("kernel", "step_size"))
    scales = sum(kernel.shape[-1] for kernel in kernels) if scaled else 0
    weights = sum(kernel.size for kernel in kernels)
    expected = sum(-(-kernel.size * bits // 8) for kernel in kernels) + 4 * (scales + others)
    assert stored_bytes(layers, variables) == (expected, 4 * (weights + others))


@pytest.mark.slow
def test_kept_values_grow_with_the_batch_and_count_once():
    task, variables, _ = traced()

    def kept(rows: int) -> int:
        image = jax.ShapeDtypeStruct((rows, 32, 32, 1), jnp.float32)
        label = jax.ShapeDtypeStruct((rows,), jnp.int32)
        return kept_bytes(task, variables, {"image": image, "label": label})

    one, two = kept(1), kept(2)
    per_image, fixed = two - one, 2 * one - two
    assert kept(64) == pytest.approx(fixed + 64 * per_image, rel=1e-3)
    # At least the input of every quantised layer, at most a dozen values of each layer's output.
    weights = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert fixed < 3 * 4 * weights
    assert 4 * 32 * 32 < per_image < 4e6


def test_casts_of_one_value_count_once():
    """As q, k and v keep the spikes that they read, each in int8."""

    class Readers:
        def __init__(self, count):
            self.count = count

        def loss(self, variables, batch, key):
            x = jnp.floor(batch["image"] * variables["params"]["gain"])
            kernel, scale = variables["params"]["kernel"], jnp.ones(8)
            half = jnp.bfloat16
            whole = Whole(left=4, right=8)
            products = [
                scaled_convolution(x, kernel, scale, ConvGeometry(), half, half, whole)
                for _ in range(self.count)
            ]
            return sum(jnp.sum(y) for y in products), {}

    params = {"gain": jnp.ones(()), "kernel": jnp.ones((1, 1, 8, 8))}
    batch = {"image": jax.ShapeDtypeStruct((4, 16, 16, 8), jnp.float32)}
    one, three = (kept_bytes(Readers(count), {"params": params}, batch) for count in (1, 3))
    assert 4 * 16 * 16 * 8 <= one == three


@pytest.mark.slow
def test_estimates_lie_below_what_the_compiler_takes(capsys):
    large = (DIGITS_CONFIG, "--config.model.channels=(8, 8, 16, 16)", "--config.model.depth=2", "--batch=256")
    assert launch("inspect", *large) == 0
    estimated = capsys.readouterr()
    assert "--compile asks the compiler" in estimated.out
    assert launch("inspect", *large, "--compile") == 0
    compiled = capsys.readouterr()
    assert "compiling the train step ..." in compiled.err
    for step in ("inference", "train step"):
        [least] = map(number, re.findall(rf"{step} +at least ([\d,]+) MB", estimated.out))
        [taken] = map(number, re.findall(rf"{step} +([\d,]+) MB on cpu", compiled.out))
        assert taken / 3 < least <= taken


OWN = """
from qsdt_jax.assemble.tasks import TASKS, TaskFactory, build_classification
from qsdt_jax.tasks.classification import Classification

def source(config, split):
    return [{"image": None}]

def build(config, class_names):
    assert class_names is None
    return build_classification(config, ("a", "b"))

TASK = TaskFactory(build=build, metrics=Classification.metrics)
"""


def test_data_without_classes(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "unlabelled.py").write_text(OWN)
    words = ["inspect", DIGITS_CONFIG, "--batch=64", "--config.data.source=unlabelled:source"]
    assert launch(*words) == 2
    assert "config.task.name='classification' needs data with classes" in capsys.readouterr().err
    rules = "--config.model.bits_rules=(('head', 8),)"
    assert launch(*words, "--config.task.name=unlabelled:TASK", rules) == 0
    told = capsys.readouterr().out
    assert told.startswith(
        "32x32x1 images, 2 classes (of the unlabelled:source data), 4-bit weights (`head`: 8-bit), D = 4"
    )


@pytest.mark.parametrize(
    ("task", "classes"),
    [("classification", 1000), ("semantic_segmentation", 150), ("tests.assemble.annotated_task:TASK", 150)],
)
def test_classes_of_images_that_are_not_there(monkeypatch, tmp_path, task, classes):
    """Those of the usual data of what the task learns from."""
    monkeypatch.setattr("launch.inspect.NUM_CLASSES", SimpleNamespace(value=None))
    config = tiny_config(**{"task.name": task, "data.source": "tfds", "data.path": str(tmp_path)})
    assert _class_count(config)[0] == classes
    config.data.source = "segfolder"
    with pytest.raises(UserError, match=r"classes\.txt: expected the names of the classes"):
        _class_count(config)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "inspect needs --config FILE"),
        ([DIGITS_CONFIG, "--batch=0"], "flag --batch=0"),
        ([DIGITS_CONFIG, "--config.accumulate=3"], "config.accumulate=3 does not divide the batch of 64"),
        ([DIGITS_CONFIG, "--config.batch_size=0"], "config.batch_size=0 must be at least 1"),
        ([DIGITS_CONFIG, "--devices=2", "--compile"], "--devices compiles the train step already; leave --c"),
        (  # Told before the network is traced, whose mistake would come first else.
            [DIGITS_CONFIG, "--devices=1", "--config.parallel.fsdp=2", "--config.model.num_heads=3"],
            "config.parallel.fsdp=2 does not divide the 1 devices",
        ),
        (
            [DIGITS_CONFIG, "--config.data.image_size=(32, 40)"],
            "config.data.image_size=(32, 40): height and width must be multiples of 16",
        ),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert launch("inspect", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("config", "size"), [(imagenet_s, "S"), (imagenet_m, "M"), (imagenet_l, "L")])
def test_imagenet_configs_differ_in_size_only(config, size):
    mine, small = config.get_config().to_dict(), imagenet_s.get_config().to_dict()
    assert mine["model"].pop("channels") == SIZES[size]["channels"]
    assert mine["model"]["depth"] == SIZES[size]["depth"]
    small["model"].pop("channels")
    assert mine == small


def test_a_segmenter(capsys):
    tiny = ROOT / "tests" / "configs" / "tiny_seg.py"
    assert launch("inspect", f"--config={tiny}", "--batch=2") == 0
    text = capsys.readouterr().out
    assert "32x32x3 images, 3 classes (of the fake data)" in text
    assert re.search(r"fpn +2x2x8 +2,848 +4 ", text) and re.search(r"seg_head +16x16x3 ", text)
    assert "FLOPs per train step" in text and "train step" in text.splitlines()[-2]
