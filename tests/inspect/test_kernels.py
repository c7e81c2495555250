"""Reading compiled programs: by texts whose numbers can be worked out by hand."""

import re

import jax
import jax.numpy as jnp
import pytest

from qsdt_jax.inspect.hlo import bytes_of, read_program
from qsdt_jax.inspect.kernels import Kernel, kernels_of, sent_by_kind
from qsdt_jax.inspect.products import Product
from qsdt_jax.inspect.report import kernel_rows, memory_rows
from qsdt_jax.inspect.targets import A100, H100, TARGETS
from tests.inspect.programs import GPU, LOOP, PARTS


@pytest.fixture(scope="module")
def kernels() -> dict[str, Kernel]:
    """Of `GPU`, in their order, by the name of the operation."""
    names = ["dw", "dx", "y", "z", "r", "u", "row", "e"]
    return dict(zip(names, kernels_of(read_program(GPU)), strict=True))


def test_bytes_of_collectives():
    """Those of a loop count with its rounds, those of a pair once."""
    assert sent_by_kind(kernels_of(read_program(LOOP))) == {"all-reduce": 3 * 16, "all-gather": 8 * 2 * 2 + 4}
    assert sent_by_kind(kernels_of(read_program(GPU))) == {"all-reduce": 100 * 8 * 4}


@pytest.mark.parametrize(
    ("type", "size"),
    [
        ("f32[2,3]{1,0}", 24),
        ("pred[5]{0}", 5),
        ("(bf16[4]{0}, /*index=5*/u8[0]{0}, s4[6]{0})", 11),
        ("f8e4m3fn[3]{0:S(5)}", 3),
        ("c64[]", 8),
        ("token[]", 0),
    ],
)
def test_bytes_of_types(type, size):
    assert bytes_of(type) == size


def test_products(kernels):
    """A gradient multiplies as often as the convolution: 9 taps for each output, and what a group sums."""
    outputs = 8 * 14 * 14 * 64
    assert {name: kernel.products for name, kernel in kernels.items() if kernel.products} == {
        "dw": (Product("convolution", "bf16", "bf16", "bf16", False, 2 * outputs * 9),),
        "dx": (Product("convolution", "bf16", "bf16", "bf16", False, 2 * outputs * 9 * 64),),
        "y": (Product("matrix product", "bf16", "bf16", "f32", False, 2 * 64 * 16 * 32),),
        "z": (Product("matrix product", "f32", "f32", "f32", True, 2 * 64 * 8 * 16),),
    }


def test_kinds_and_phases(kernels):
    assert {name: (kernel.kind, kernel.phase) for name, kernel in kernels.items()} == {
        "dw": ("convolutions", "backward"),
        "dx": ("convolutions", "backward"),
        "y": ("matrix products", "forward"),
        "z": ("matrix products", "the rest"),
        "r": ("element by element", "the rest"),
        "u": ("element by element", "the rest"),
        "row": ("slice", "the rest"),
        "e": ("all-reduce", "the rest"),
    }


def test_bytes_moved(kernels):
    image = 8 * 14 * 14 * 64 * 2
    assert {name: kernel.moved for name, kernel in kernels.items()} == {
        "dw": 2 * image + 64 * 9 * 2,
        "dx": 2 * image + 64 * 9 * 64 * 2,
        "y": 64 * 32 + 32 * 16 * 2 + 64 * 16 * 4,
        "z": 2 * 64 * 16 * 4 + 64 * 8 * 4,
        "r": 2 * 8 * 4 + 2 * 4 + 2 * 8 * 4,  # Two rows of the table, not all of it.
        "u": 8 * 4 + 4 + 8 * 4,  # The row that is written, and where.
        "row": 8 * 4 + 8 * 4,  # As much as is taken.
        "e": 2 * 100 * 8 * 4,
    }


def test_what_a_fusion_takes_in_part():
    """Through arithmetic and several steps: of a value that is taken twice both parts, and at most all."""
    [kernel] = kernels_of(read_program(PARTS))
    assert kernel.moved == (3 + 5) * 4 + 3 * 4 + 8 * 4 + 3 * 4 + 5 * 4


def test_a_program_of_this_machine():
    """What XLA writes here and now: a loop of products of which it knows the rounds."""

    def run(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=5)[0]

    shapes = jax.ShapeDtypeStruct((32, 64), jnp.float32), jax.ShapeDtypeStruct((64, 64), jnp.float32)
    found = kernels_of(read_program(jax.jit(run).lower(*shapes).compile().as_text() or ""))
    products = [(kernel.times, product) for kernel in found for product in kernel.products]
    assert sum(times * product.flops for times, product in products) == 5 * 2 * 32 * 64 * 64
    assert {(product.left, product.result) for _, product in products} == {("f32", "f32")}


# The roofline


def test_the_bound_is_the_longer_of_bytes_and_products():
    wide = Product("matrix product", "bf16", "bf16", "f32", False, 0.8 * 989e12)
    moved = 0.9 * 3.352e12
    assert H100.seconds(Kernel("copy", "forward", 1, 2 * moved)) == pytest.approx(2 + 2e-6)
    assert H100.seconds(Kernel("products", "forward", 1, moved / 2, (wide, wide))) == pytest.approx(2 + 2e-6)


def test_float32_in_full_precision_takes_no_tensor_core():
    def seconds(target, full):
        product = Product("matrix product", "f32", "f32", "f32", full, 1e12)
        return target.seconds(Kernel("products", "forward", 1, 0.0, (product,)))

    for target in TARGETS.values():
        assert 6 < seconds(target, True) / seconds(target, False) < 9
    assert seconds(A100, False) / seconds(H100, False) == pytest.approx(494 / 156, rel=1e-3)


def test_rows():
    product = Product("convolution", "s8", "s8", "f32", False, 4e9)
    kernels = [
        Kernel("convolutions", "forward", 2, 30e6, (product,)),
        Kernel("copy", "the rest", 3, 100e6),
        Kernel("all-reduce", "backward", 1, 2e6, sent=1e6),
    ]
    rows = kernel_rows(kernels, H100, 4, devices=2)
    seconds = 2 * 30e6 / (0.9 * 3.352e12) + 3 * 100e6 / (0.9 * 3.352e12) + 2e6 / (0.9 * 3.352e12) + 6 * 2e-6
    assert [row for row in rows if row[0] != "roofline"] == [
        ("bytes moved", "90 MB an image: 15 MB forward, 0 MB backward, 75 MB the rest"),
        ("kernels", "6"),
        ("", "3 copy: 75.0 MB an image, 0.11 ms"),
        ("", "2 convolutions: 15.0 MB an image, 0.02 ms"),
        ("", "1 all-reduce: 0.5 MB an image, 0.00 ms"),
        ("products", ""),
        ("", "2 convolutions s8 x s8 -> f32: 2.000 GFLOP an image"),
        ("sent", "1.00 MB all-reduce"),
    ]
    [bound] = [value for name, value in rows if name == "roofline"]
    [ms, rate] = re.findall(r"[\d,.]+(?= ms| images/s)", bound)
    assert float(ms) == round(1e3 * seconds, 2) and int(rate.replace(",", "")) == round(8 / seconds)


@pytest.mark.parametrize(
    ("temporaries", "verdict"), [(84_000_000_000, "fits"), (85_000_000_000, "DOES NOT FIT")]
)
def test_memory(temporaries, verdict):
    parts = {"arguments": 100_000_000, "temporaries": temporaries}
    rows = memory_rows(parts, 5_000_000_000, H100, 10)
    assert f"GB, {verdict} into 84.9 GB" in rows[0][1]
    assert rows[2] == ("", f"{temporaries / 1e7:,.1f} MB of temporaries an image")
