"""Checkpoints as training scripts write them: the weights are found, or the file is named for what it is."""

import zipfile

import numpy as np
import pytest

from qsdt_jax.errors import UserError
from qsdt_jax.interop import torch_file
from qsdt_jax.interop.entries import described, plain_names
from tests.interop.test_torch_file import Call, message, tensor, write

ONE, TWO = tensor(), tensor(shape=(2,), strides=(1,))
PLAIN = {"head.weight": ONE, "head.bias": TWO}


def under(prefix: str) -> dict:
    return {prefix + name: value for name, value in PLAIN.items()}


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        {"model": PLAIN},
        {"state_dict": PLAIN, "epoch": 3},
        {"model": "qsdt_s", "state_dict": PLAIN},
        {"model": {"state_dict": PLAIN}},
        {"state_dict": {"model": PLAIN}},
        {"model_state_dict": PLAIN, "optimizer_state_dict": {"state": {}, "param_groups": ()}},
        {"module": PLAIN, "dp_world_size": 8},
        {"net": PLAIN},
        under("module."),
        under("_orig_mod."),
        under("module._orig_mod."),
        under("_orig_mod.module."),
        under("model."),
        under("model._orig_mod.module."),
        under("module.module."),
        under("backbone."),
        under("model._fsdp_wrapped_module."),
        {"head._orig_mod.weight": ONE, "head._checkpoint_wrapped_module.bias": TWO},
        {"n_averaged": tensor(shape=(), strides=()), **under("module.")},
    ],
)
def test_weights_are_found_under_their_own_names(tmp_path, content, capsys):
    found = torch_file.load(write(tmp_path, content))
    assert {name: array.shape for name, array in found.items()} == {"head.weight": (2, 2), "head.bias": (2,)}
    assert capsys.readouterr().err == ""


def test_a_prefix_that_not_all_share_stays(tmp_path):
    for names in ({"backbone.a": ONE, "neck.b": ONE}, {"model.a": ONE, "b": ONE}, {"model": ONE}):
        assert sorted(torch_file.load(write(tmp_path, names))) == sorted(names)


def test_two_names_that_become_one():
    with pytest.raises(UserError, match=r"both 'a\.b' and 'a\._orig_mod\.b'"):
        plain_names({"a._orig_mod.b": 1, "a.b": 2})


AVERAGE = {"head.weight": tensor(offset=2, shape=(1, 2)), "head.bias": TWO}
BOTH = [
    {"model": PLAIN, "model_ema": AVERAGE},
    {"state_dict": PLAIN, "state_dict_ema": AVERAGE},
    {"model": PLAIN, "ema": {"module": AVERAGE}},
    {"model": PLAIN, "model_ema": {"module." + name: value for name, value in AVERAGE.items()}},
    {**under("model."), **{"ema_model." + name: value for name, value in AVERAGE.items()}},
    {
        **under("online_model."),
        **{"ema_model." + name: value for name, value in AVERAGE.items()},
        "initted": tensor(shape=(), strides=()),
    },
]


@pytest.mark.parametrize("content", BOTH)
def test_the_weights_are_taken_and_the_average_is_told(tmp_path, content, capsys):
    file = write(tmp_path, content)
    np.testing.assert_array_equal(torch_file.load(file)["head.weight"], [[1, 2], [3, 4]])
    told = capsys.readouterr().err
    assert told.startswith(f"{file}: a moving average is beside the weights (") and told.count("\n") == 1
    found = torch_file.load(file, ema=True)
    assert sorted(found) == ["head.bias", "head.weight"]
    np.testing.assert_array_equal(found["head.weight"], [[3, 4]])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("content", [{"model_ema": AVERAGE}, {"ema": AVERAGE, "epoch": 1}])
def test_a_file_of_the_average_alone(tmp_path, content, capsys):
    file = write(tmp_path, content)
    assert torch_file.load(file)["head.weight"].shape == (1, 2)
    assert "it holds only a moving average (entry " in capsys.readouterr().err


def test_no_average(tmp_path):
    with pytest.raises(UserError, match="no moving average of the weights is in it; leave ema=True"):
        torch_file.load(write(tmp_path, {"model": PLAIN}), ema=True)


def test_what_holds_no_weights_is_named(tmp_path):
    optimizer = {"state": {0: {"exp_avg": ONE}}, "param_groups": ()}
    assert "found the state of an optimiser alone" in message(write(tmp_path, optimizer))
    assert "found the entries 'optimizer'" in message(write(tmp_path, {"optimizer": optimizer}))
    module = {"model": Call("torch.nn.modules.linear", "Linear")}
    assert "names the code torch.nn.modules.linear.Linear" in message(write(tmp_path, module))
    assert "a TorchScript program" in message(write(tmp_path, PLAIN, entries={"constants.pkl": b""}))


def test_what_scripts_store_beside_is_left_out(tmp_path):
    beside = {"metrics": Call("collections", "defaultdict", 1), "seen": Call("builtins", "set", ())}
    assert len(torch_file.load(write(tmp_path, {"model": PLAIN, **beside}))) == 2


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (
            ["backbone.a", "neck.b", "bbox_head.c"],
            "3 tensors (backbone.a, neck.b, bbox_head.c), as of a detector",
        ),
        (["a.lora_A", "b", "c", "d"], "4 tensors (a.lora_A, b, c, ...), as of an adapter"),
        (["block3.0.x"], "as of this network without its head"),
        (["layer1.0.conv1.weight"], "as of another network; names here are like block3.0.mlp"),
    ],
)
def test_other_networks_are_described(names, told):
    assert told in described(dict.fromkeys(names))


def test_entries_that_claim_more_than_the_file(tmp_path):
    """The size in the directory of the archive, which is read before the entry."""
    path = write(tmp_path, PLAIN)
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\x01\x02")
    content[place + 20 : place + 28] = (2**31).to_bytes(4, "little") * 2
    path.write_bytes(content)
    assert "its entries claim" in message(path)
    assert zipfile.is_zipfile(path)


def test_a_tensor_that_repeats_one_number_without_end(tmp_path):
    assert "more than 2,147,483,648 elements" in message(write(tmp_path, {"a": tensor((2**40,), (0,))}))


NORM = {"head.running_mean": TWO, "head.num_batches_tracked": tensor(shape=(), strides=())}
LISTED = [tensor(offset=2, shape=(2, 2), strides=(0, 1)), TWO]


@pytest.mark.parametrize("average", [LISTED, {"decay": 0.999, "num_updates": 3, "shadow_params": LISTED}])
def test_an_average_without_names_has_those_of_the_parameters(tmp_path, average):
    """As torch_ema keeps it: the parameters in their order, without the buffers."""
    weights = {"head.weight": ONE, **NORM, "head.bias": TWO}
    file = write(tmp_path, {"model": weights, "ema": average})
    np.testing.assert_array_equal(torch_file.load(file)["head.weight"], [[1, 2], [3, 4]])
    found = torch_file.load(file, ema=True)
    assert sorted(found) == sorted(weights)
    np.testing.assert_array_equal(found["head.weight"], [[3, 4], [3, 4]])


def test_a_list_that_is_not_of_the_parameters(tmp_path):
    for listed in ([ONE], [TWO, ONE]):
        file = write(tmp_path, {"model": PLAIN, "ema": {"shadow_params": listed}})
        assert sorted(torch_file.load(file)) == sorted(PLAIN)
        with pytest.raises(UserError, match=rf"a list of {len(listed)} tensors without names"):
            torch_file.load(file, ema=True)
