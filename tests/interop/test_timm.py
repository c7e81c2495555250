"""timm's names and files -> the variables of a CAFormer."""

import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from qsdt_jax.errors import UserError
from qsdt_jax.interop.timm import caformer_variables, num_classes, read_timm
from qsdt_jax.models.caformer import CAFORMERS, CAFormer
from tests.interop.test_torch_file import opcodes, tensor

TINY = CAFormer((4, 8, 32, 64), (1, 1, 1, 2), num_classes=5)


def timm_shapes(channels, depths, classes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in timm's files, written down from its documentation of the layout."""
    shapes: dict[str, tuple[int, ...]] = {
        "stem.conv.weight": (channels[0], 3, 7, 7),
        "stem.conv.bias": (channels[0],),
        "stem.norm.weight": (channels[0],),
    }
    for s, (c, depth) in enumerate(zip(channels, depths, strict=True)):
        if s:
            shapes[f"stages.{s}.downsample.norm.weight"] = (channels[s - 1],)
            shapes[f"stages.{s}.downsample.conv.weight"] = (c, channels[s - 1], 3, 3)
            shapes[f"stages.{s}.downsample.conv.bias"] = (c,)
        for i in range(depth):
            block = f"stages.{s}.blocks.{i}"
            ends = (1, 1) if s < 2 else ()
            mixer: dict[str, tuple[int, ...]] = {
                "pwconv1.weight": (2 * c, c, 1, 1),
                "act1.scale": (1,),
                "act1.bias": (1,),
                "dwconv.weight": (2 * c, 1, 7, 7),
                "pwconv2.weight": (c, 2 * c, 1, 1),
            }
            if s >= 2:
                mixer = {"qkv.weight": (3 * c, c), "proj.weight": (c, c)}
                shapes |= {f"{block}.res_scale{j}.scale": (c,) for j in (1, 2)}
            shapes |= {f"{block}.token_mixer.{name}": shape for name, shape in mixer.items()}
            shapes |= {f"{block}.norm{j}.weight": (c,) for j in (1, 2)}
            shapes |= {f"{block}.mlp.act.{name}": (1,) for name in ("scale", "bias")}
            shapes |= {
                f"{block}.mlp.fc1.weight": (4 * c, c, *ends),
                f"{block}.mlp.fc2.weight": (c, 4 * c, *ends),
            }
    c = channels[-1]
    for name, width in (("norm", c), ("fc.norm", 4 * c)):
        shapes |= {f"head.{name}.{kind}": (width,) for kind in ("weight", "bias")}
    return shapes | {
        "head.fc.fc1.weight": (4 * c, c),
        "head.fc.fc1.bias": (4 * c,),
        "head.fc.fc2.weight": (classes, 4 * c),
        "head.fc.fc2.bias": (classes,),
    }


def draw_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    shapes = timm_shapes(TINY.channels, TINY.depths, TINY.num_classes)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write_pth(file: Path, tensors: dict[str, np.ndarray], key: str) -> Path:
    """The file that `torch.save` makes of a checkpoint of timm's training."""
    content = {}
    with zipfile.ZipFile(file, "w") as archive:
        for i, (name, array) in enumerate(tensors.items()):
            strides = tuple(stride // array.itemsize for stride in array.strides)
            content[name] = tensor(array.shape, strides, 0, array.size, str(i))
            archive.writestr(f"made/data/{i}", array.tobytes())
        archive.writestr("made/data.pkl", b"\x80\x02" + opcodes({"epoch": 3, key: content}) + b".")
    return file


def test_every_tensor_has_its_place():
    tensors = draw_tensors()
    params = caformer_variables(TINY, "tensors", tensors)["params"]
    for (path, array), shape in zip(
        jax.tree_util.tree_leaves_with_path(params),
        jax.tree.leaves(jax.eval_shape(TINY.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))),
        strict=True,
    ):
        assert (array.shape, array.dtype) == (shape.shape, shape.dtype), path
    block = params["stages_3"]["blocks_1"]
    np.testing.assert_array_equal(
        block["mlp"]["fc2"]["kernel"].T, tensors["stages.3.blocks.1.mlp.fc2.weight"]
    )
    kernel = params["stages_1"]["downsample"]["conv"]["kernel"]
    assert kernel[2, 0, 3, 7] == tensors["stages.1.downsample.conv.weight"][7, 3, 2, 0]
    assert len(jax.tree.leaves(params)) == len(tensors)


@pytest.mark.parametrize("name", CAFORMERS)
def test_names_and_shapes_of_the_published_sizes(name):
    """All of them, as a file without one tensor tells: nothing else is missed."""
    model, size = CAFormer(**CAFORMERS[name]), CAFORMERS[name]
    shapes = timm_shapes(size["channels"], size["depths"], 1000)
    tensors = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
    del tensors["stages.2.blocks.8.mlp.act.bias"]
    with pytest.raises(UserError) as caught:
        caformer_variables(model, "FILE", tensors)
    expected = "FILE does not fit the model; missing (1): stages.2.blocks.8.mlp.act.bias (1,)"
    assert str(caught.value) == expected


def test_both_kinds_of_files_and_half_precision(tmp_path):
    tensors = draw_tensors()
    save_file(tensors, tmp_path / "a.safetensors")
    expected = caformer_variables(TINY, "tensors", tensors)
    for file in (tmp_path / "a.safetensors", write_pth(tmp_path / "a.pth", tensors, "state_dict")):
        found = caformer_variables(TINY, str(file), read_timm(file))
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    save_file(
        {f"module._orig_mod.{name}": array for name, array in tensors.items()}, tmp_path / "c.safetensors"
    )
    assert read_timm(tmp_path / "c.safetensors").keys() == tensors.keys()
    narrow = {name: array.astype(ml_dtypes.bfloat16) for name, array in tensors.items()}
    save_file(narrow, tmp_path / "b.safetensors")
    found = caformer_variables(TINY, "b", read_timm(tmp_path / "b.safetensors"))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2**-8), found, expected)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"stem.norm.bias": np.zeros(4)}, "unknown (1): stem.norm.bias (4,)"),
        (
            {"stages.2.blocks.0.res_scale1.scale": np.zeros(31)},
            "of another shape (1): stages.2.blocks.0.res_scale1.scale expected (32,) found (31,)",
        ),
        (
            {"stages.0.blocks.0.mlp.fc1.weight": np.zeros((16, 4))},
            "of another shape (1): stages.0.blocks.0.mlp.fc1.weight expected (16, 4, 1, 1) found (16, 4)",
        ),
    ],
)
def test_misfits_are_named(change, told):
    with pytest.raises(UserError) as caught:
        caformer_variables(TINY, "FILE", draw_tensors() | change)
    assert str(caught.value) == f"FILE does not fit the model; {told}"


def test_files_that_are_none(tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "text.pth").write_text("weights")
    for file, told in (
        ("none.safetensors", "no such file; expected timm's weights"),
        ("cut.safetensors", "no safetensors file, or a damaged one"),
        ("folder.safetensors", "cannot be read"),
        ("text.pth", "not a PyTorch checkpoint"),
    ):
        with pytest.raises(UserError) as caught:
            read_timm(tmp_path / file)
        assert str(caught.value).startswith(f"{tmp_path / file}: {told}") and "\n" not in str(caught.value)
    with pytest.raises(
        UserError, match=r"FILE is no CAFormer of timm: it has no tensor head\.fc\.fc2\.weight"
    ):
        num_classes("FILE", {"head.weight": np.zeros((5, 4))})
