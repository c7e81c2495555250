"""a trained network -> a file to deploy (`model.qsdt`), or a program that runs without this project."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from launch.flags import DEFINED_OFTEN, define_path, require_writable
from qsdt_jax.errors import UserError

# The libraries are imported where they are used, so that --help answers at once.
if TYPE_CHECKING:
    from qsdt_jax.assemble.split import Split
    from qsdt_jax.deploy.bundle import Bundle
    from qsdt_jax.deploy.c.export import Source
    from qsdt_jax.loading.trained import Trained

WORKDIR = define_path("workdir", "directory of a run or an import")
STEP = flags.DEFINE_string("step", "latest", "latest, best, or the number of a step", **DEFINED_OFTEN)
EMA = flags.DEFINE_bool("ema", False, "take the moving average of the variables", **DEFINED_OFTEN)
OUT = define_path("out", "file for the bundle, e.g. model.qsdt")
STABLEHLO = define_path("stablehlo", "file for a jax.export program for cpu, cuda and tpu")
ONNX = define_path("onnx", "file for an ONNX model of the integer form")
QONNX = define_path("qonnx", "file for an ONNX model with QuantizeLinear and DequantizeLinear")
NIR = define_path("nir", "file for a NIR graph, of what comes before attention (--nir_until)")
NIR_UNTIL = flags.DEFINE_string(
    "nir_until", None, "last layer of that graph, e.g. downsample3/conv", **DEFINED_OFTEN
)
C = define_path("c", "folder for a C99 file of the integer form and its header")
VERIFY = flags.DEFINE_integer(
    "verify", None, "test images, from the start of the split, on which all forms must agree to the bit",
    lower_bound=1, **DEFINED_OFTEN,
)  # fmt: skip

MEGABYTE = 1e6
C_FORM = "C form"
FORMS = {
    "stablehlo": "StableHLO program",
    "onnx": "ONNX model",
    "qonnx": "ONNX model",
    "nir": "NIR graph",
    "c": C_FORM,
}
VERIFIED_AT_ONCE = 32  # Images; every count of theirs is held.


def main() -> None:
    """Exports as the flags say."""
    from qsdt_jax.loading.deployed import bundle_of
    from qsdt_jax.loading.trained import load_trained

    chosen = {flag.name: flag.value for flag in (OUT, STABLEHLO, ONNX, QONNX, NIR, C)}
    files = {flag: Path(file) for flag, file in chosen.items() if file}
    if WORKDIR.value is None or not files:
        raise UserError(
            "export needs --workdir DIR and a FILE for --out, --stablehlo, --onnx, --qonnx, --nir, or --c DIR"
        )
    if NIR_UNTIL.value and "nir" not in files:
        raise UserError(f"--nir_until {NIR_UNTIL.value}: expected --nir FILE, whose last layer it names")
    for flag, file in files.items():
        _require_place(flag, file)
    if len(set(files.values())) < len(files):
        told = " ".join(f"--{flag} {file}" for flag, file in files.items())
        raise UserError(f"{told}: expected a file for each")
    trained = load_trained(WORKDIR.value, step=STEP.value, ema=EMA.value)
    bundle = bundle_of(trained)
    # Before anything is written.
    for flag, form in FORMS.items():
        if flag in files:
            bundle.require_program(form)
    source = None
    writers = {
        "out": functools.partial(_write, bundle=bundle),
        "stablehlo": functools.partial(_write_stablehlo, bundle=bundle),
        "onnx": functools.partial(_write_onnx, bundle=bundle),
        "qonnx": functools.partial(_write_qonnx, bundle=bundle),
    }
    if "c" in files:
        source = _source(bundle)
        writers["c"] = functools.partial(_write_c, source=source)
    if "nir" in files:
        writers["nir"] = functools.partial(_write_nir, graph=_graph(bundle))
    split = None if VERIFY.value is None else _split(trained, VERIFY.value)
    for flag, file in files.items():
        print(f"{file}: {writers[flag](file)}")
    if split is not None:
        print(_verify(trained, bundle, files.get("out"), source, split))


def _require_place(flag: str, file: Path) -> None:
    """Refuses what cannot be written; of --c the folder, which need not be there, or the files in it."""
    from qsdt_jax.deploy.c.export import CODE, HEADER

    if flag != "c" or not file.exists():
        require_writable(flag, file)
    elif not file.is_dir():
        raise UserError(f"--c {file} is no folder; expected one, for {CODE} and {HEADER}")
    else:
        for name in (CODE, HEADER):
            require_writable(flag, file / name)


def _split(trained: "Trained", images: int) -> "Split":
    """The first images of the test split."""
    from qsdt_jax.assemble.split import Split

    config = trained.config.copy_and_resolve_references()
    config.eval.batch_size = min(config.eval.batch_size, VERIFIED_AT_ONCE)
    return Split(config, "test", trained.classes, images)


def _verify(
    trained: "Trained", bundle: "Bundle", file: Path | None, source: "Source | None", split: "Split"
) -> str:
    """Runs the forms on images of the test split, with the NumPy reader and the C form if they are written.

    Raises:
      UserError: they do not agree.
    """
    from qsdt_jax.deploy import agreement
    from qsdt_jax.deploy.c.compiled import c_form, compiled, compiler
    from qsdt_jax.verification.forms import agreed, forms_of, require_agreement

    program = bundle.program
    forms = forms_of(trained.task.model, trained.variables, bundle, file)
    left_out = ""
    if source is not None and compiler() is None:
        left_out = f"; the {C_FORM} not, for want of a C compiler"
    elif source is not None:
        forms[C_FORM] = c_form(source, compiled(source))
    found = agreement.compare(forms, split.batches("verified"))
    require_agreement(found, [step.name for step in program.steps])
    return f"verified on {split.images:,} images of the test split: {agreed(found)}{left_out}"


def _write(file: Path, bundle: "Bundle") -> str:
    """Writes the bundle and says what its bytes are."""
    from qsdt_jax.deploy.bundle import bundle_bytes, write_bundle

    program, total = bundle.program, write_bundle(file, bundle)
    bits = "/".join(map(str, program.bits))
    count = sum(layer.weights.size for layer in program.layers)
    parts = ", ".join(f"{name} {size / MEGABYTE:.3f}" for name, size in bundle_bytes(bundle).items())
    return f"{total / MEGABYTE:.3f} MB, {count:,} weights of {bits} bits: {parts}"


def _write_stablehlo(file: Path, bundle: "Bundle") -> str:
    from qsdt_jax.deploy.stablehlo import PLATFORMS, export_stablehlo
    from qsdt_jax.files import write_atomically

    content = export_stablehlo(bundle.require_program("StableHLO program"), bundle.image_size)
    write_atomically(file, content)
    return f"{len(content) / MEGABYTE:.3f} MB: StableHLO for {', '.join(PLATFORMS)}, {_signature(bundle)}"


def _write_onnx(file: Path, bundle: "Bundle") -> str:
    from qsdt_jax.deploy.graphs.onnx_integer import OPSET, export_onnx

    return f"{_write_model(file, bundle, export_onnx)} MB: ONNX, opset {OPSET}, {_signature(bundle)}"


def _write_qonnx(file: Path, bundle: "Bundle") -> str:
    from qsdt_jax.deploy.graphs.onnx_qdq import OPSET, export_qdq

    size = _write_model(file, bundle, export_qdq)
    return f"{size} MB: ONNX with Q/DQ nodes, opset {OPSET}, {_signature(bundle)}"


def _write_model(file: Path, bundle: "Bundle", export: Callable[..., bytes]) -> str:
    """Writes an ONNX model; its size in MB."""
    from qsdt_jax.files import write_atomically

    program = bundle.require_program(FORMS["onnx"])
    content = export(program, bundle.image_size, metadata=_metadata(bundle))
    write_atomically(file, content)
    return f"{len(content) / MEGABYTE:.3f}"


def _metadata(bundle: "Bundle") -> dict[str, str]:
    """What is needed to feed a network and to read it, each as JSON."""
    import json

    told = {"classes": bundle.class_names, "mean": bundle.mean, "std": bundle.std, "origin": bundle.origin}
    frames = {} if bundle.slicing is None else {"slicing": bundle.slicing}
    return {name: json.dumps(value) for name, value in {**told, **frames}.items()}


def _graph(bundle: "Bundle") -> bytes:
    """The file of the NIR graph."""
    from qsdt_jax.deploy.graphs.nir import export_nir

    program = bundle.require_program(FORMS["nir"])
    return export_nir(program, bundle.image_size, until=NIR_UNTIL.value, metadata=_metadata(bundle))


def _write_nir(file: Path, graph: bytes) -> str:
    from qsdt_jax.files import write_atomically

    write_atomically(file, graph)
    last = f", up to {NIR_UNTIL.value}" if NIR_UNTIL.value else ""
    return f"{len(graph) / MEGABYTE:.3f} MB: NIR, spikes in slots side by side{last}"


def _source(bundle: "Bundle") -> "Source":
    """The C form; it takes bytes where image files give them."""
    from qsdt_jax.data.images import MODES, Normalization
    from qsdt_jax.deploy.c.export import export_c
    from qsdt_jax.loading.deployed import KNOWN

    program, normalization = bundle.require_program(C_FORM), Normalization(bundle.mean, bundle.std)
    channels = program.in_channels
    return export_c(
        program,
        bundle.image_size,
        pixels=normalization.table(channels) if channels in MODES else None,
        class_names=bundle.class_names if bundle.origin.get(KNOWN) else None,
        origin=f"From step {bundle.origin['step']} of a run, exported at commit {bundle.origin['commit']}.",
    )


def _write_c(folder: Path, source: "Source") -> str:
    """Writes both files and says how much memory they ask for."""
    from qsdt_jax.deploy.c.export import CODE, HEADER
    from qsdt_jax.files import write_atomically

    folder.mkdir(exist_ok=True)
    write_atomically(folder / HEADER, source.header)
    write_atomically(folder / CODE, source.code)
    buffers, tables = (size / MEGABYTE for size in (source.buffer_bytes, source.table_bytes))
    return f"{CODE} and {HEADER}, C99: {tables:.3f} MB of constants, {buffers:.3f} MB of buffers"


def _signature(bundle: "Bundle") -> str:
    """What a program takes and gives: frames where there are several time steps."""
    program = bundle.program
    timesteps = program.neuron.timesteps
    what, frames = ("frames", f"{timesteps}, ") if timesteps > 1 else ("images", "")
    height, width = bundle.image_size
    return f"float32 {what} (B, {frames}{height}, {width}, {program.in_channels}) -> logits"
