"""What a program compiled for a GPU takes, moves, multiplies and sends, in rows (what, value)."""

from collections.abc import Iterable
from typing import Any, get_args

import jax

from qsdt_jax.errors import UserError
from qsdt_jax.inspect.hlo import read_program
from qsdt_jax.inspect.kernels import Kernel, Phase, kernels_of, sent_by_kind, total_moved
from qsdt_jax.inspect.products import Product
from qsdt_jax.inspect.targets import Target

Rows = list[tuple[str, str]]
PHASES: tuple[Phase, ...] = get_args(Phase)


def report(compiled: jax.stages.Compiled, target: Target, images: int, devices: int) -> Rows:
    """Rows about one run of a program.

    Args:
      compiled: for that target.
      images: on all devices together.
      devices: that share them.

    Raises:
      UserError: the compiler does not tell of its program.
    """
    stats, text = compiled.memory_analysis(), compiled.as_text()
    if stats is None or text is None:
        raise UserError("the compiler tells neither the memory nor the text of its program")
    own = images / devices
    return [
        *memory_rows(memory_parts(stats), stats.peak_memory_in_bytes, target, own),
        *kernel_rows(kernels_of(read_program(text)), target, own, devices),
    ]


def memory_parts(stats: Any) -> dict[str, int]:
    """Bytes of a device by name, from `memory_analysis()`; of the output what no argument makes room for."""
    return {
        "arguments": stats.argument_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "output": stats.output_size_in_bytes - stats.alias_size_in_bytes,
    }


def memory_rows(parts: dict[str, int], peak: int, target: Target, images: float) -> Rows:
    """Of one device, with `images` on it: bytes by name, and the most at any moment."""
    needed = sum(parts.values())
    verdict = "fits" if needed <= target.memory else "DOES NOT FIT"
    return [
        ("memory per device", f"{needed / 1e9:,.2f} GB, {verdict} into {target.memory / 1e9:,.1f} GB"),
        ("", ", ".join(f"{size / 1e9:,.3f} GB {name}" for name, size in parts.items())),
        ("", f"{parts['temporaries'] / 1e6 / images:,.1f} MB of temporaries an image"),
        ("", f"{peak / 1e9:,.3f} GB in use at the most, by the order of the program"),
    ]


def kernel_rows(kernels: list[Kernel], target: Target, images: float, devices: int) -> Rows:
    """Of one device, with `images` on it: bytes, kernels, products, communication and the roofline."""
    moved = {phase: total_moved(kernel for kernel in kernels if kernel.phase == phase) for phase in PHASES}
    phases = [f"{size / 1e6 / images:,.0f} MB {phase}" for phase, size in moved.items() if size]
    told = f": {', '.join(phases)}" if len(phases) > 1 else ""
    seconds = bound_seconds(kernels, target)
    sent = ", ".join(f"{size / 1e6:,.2f} MB {kind}" for kind, size in sent_by_kind(kernels).items())
    return [
        ("bytes moved", f"{total_moved(kernels) / 1e6 / images:,.0f} MB an image{told}"),
        ("kernels", f"{_count(kernels):,}"),
        *(("", line) for line in _by_kind(kernels, target, images)),
        ("products", ""),
        *(("", line) for line in _by_types(kernels, images)),
        ("sent", sent or "nothing"),
        (
            "roofline",
            f"{1e3 * seconds:,.2f} ms, {images * devices / seconds:,.0f} images/s at most: "
            "a bound to compare programs by, no time",
        ),
    ]


def _by_kind(kernels: list[Kernel], target: Target, images: float) -> list[str]:
    """A line for each kind of kernels, what bounds most first."""
    kinds = {kernel.kind: [other for other in kernels if other.kind == kernel.kind] for kernel in kernels}
    return [
        f"{_count(own):,} {kind}: {total_moved(own) / 1e6 / images:,.1f} MB an image, "
        f"{1e3 * bound_seconds(own, target):,.2f} ms"
        for kind, own in sorted(kinds.items(), key=lambda item: -bound_seconds(item[1], target))
    ]


def _by_types(kernels: Iterable[Kernel], images: float) -> list[str]:
    """A line for the products of each operation and types, most operations first."""
    counts: dict[str, int] = {}
    flops: dict[str, float] = {}
    for kernel in kernels:
        for product in kernel.products:
            kind = types_told(product)
            counts[kind] = counts.get(kind, 0) + kernel.times
            flops[kind] = flops.get(kind, 0) + kernel.times * product.flops
    return [
        f"{counts[kind]:,} {kind}: {size / 1e9 / images:,.3f} GFLOP an image"
        for kind, size in sorted(flops.items(), key=lambda item: -item[1])
    ]


def types_told(product: Product) -> str:
    """What is multiplied, as "convolutions bf16 x bf16 -> f32"."""
    full = " in full precision" if product.full and product.left == "f32" else ""
    return f"{product.operation}s {product.left} x {product.right} -> {product.result}{full}"


def _count(kernels: Iterable[Kernel]) -> int:
    return sum(kernel.times for kernel in kernels)


def bound_seconds(kernels: Iterable[Kernel], target: Target) -> float:
    """The roofline of kernels that run one after the other."""
    return sum(kernel.times * target.seconds(kernel) for kernel in kernels)
