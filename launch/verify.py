"""a checkpoint that somebody published -> which network it is, whether its binary form is it, rates, energy."""

import ast
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from launch.flags import DEFINED_OFTEN, POSITIONAL, define_path, require_writable
from qsdt_jax.errors import UserError
from qsdt_jax.files import expanded

# The libraries are imported where they are used, so that --help answers at once.
if TYPE_CHECKING:
    from qsdt_jax.assemble.identified import Identified

FILES = flags.DEFINE_list(
    POSITIONAL, [],
    "FILE [IMAGE ...]  a checkpoint (.pth) or a workdir; and image files, or folders of them, to run it on",
    **DEFINED_OFTEN,
)  # fmt: skip
STEP = flags.DEFINE_string("step", "latest", "latest, best, or the number of a step", **DEFINED_OFTEN)
EMA = flags.DEFINE_bool("ema", False, "take the moving average of the variables", **DEFINED_OFTEN)
FIELDS = flags.DEFINE_list(
    "fields", [],
    "what a .pth does not tell, where it is not the usual: keys of config.model, e.g. levels=8,num_heads=4",
)  # fmt: skip
JSON = define_path("json", "file for all that is told, as JSON")


def main() -> int:
    """Verifies as the flags say; 0 where all holds, 1 where something differs."""
    from qsdt_jax.assemble.identified import identify
    from qsdt_jax.files import write_atomically

    if not FILES.value:
        raise UserError("verify needs a checkpoint, e.g. verify qsd_s.pth one.png two.jpg")
    if JSON.value:
        require_writable("json", JSON.value)
    path, *_ = map(expanded, FILES.value)
    found = identify(path, step=STEP.value, ema=EMA.value, fields=_fields())
    told: dict[str, Any] = {"file": path, "network": _identity(found)}
    faults = _misfits(found)
    verdict = _verdict(found, faults)
    print(f"verdict: {verdict}")
    if JSON.value:
        told |= {"misfits": found.misfits._asdict(), "verdict": verdict, "holds": not faults}
        write_atomically(Path(JSON.value), json.dumps(told, indent=1) + "\n")
    return int(bool(faults))


def _fields() -> dict[str, Any]:
    """The flag as Python values; raises UserError for what is no KEY=VALUE."""
    found = {}
    for part in FIELDS.value:
        name, separator, text = part.partition("=")
        if not separator:
            raise UserError(f"--fields {part}: expected KEY=VALUE, e.g. levels=8")
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[name] = text
    return found


def _identity(found: "Identified") -> dict[str, Any]:
    """Prints which network it is, and returns that as plain data."""
    size = f"of the size {found.name}" if found.name else "of a size without a name"
    print(
        f"{found.where}: {found.family}, {size}, {found.parameters / 1e6:.4g} M parameters, "
        f"{found.classes:,} classes"
    )
    print(f"told by names and shapes: {_listed(found.told)}")
    if found.assumed:
        print(f"not told by the file, assumed (change it with --fields): {_listed(found.assumed)}")
    return {
        "family": found.family,
        "name": found.name,
        "parameters": found.parameters,
        "classes": found.classes,
        "told": dict(found.told),
        "assumed": dict(found.assumed),
    }


def _listed(fields: Any) -> str:
    return ", ".join(f"{name}={value}" for name, value in fields.items())


def _misfits(found: "Identified") -> list[str]:
    """Prints whether the tensors are those of the network, and returns what is not."""
    misfits = found.misfits.told()
    for kind, lines in misfits.items():
        print(f"tensors {kind} ({len(lines)}):", *lines, sep="\n  ")
    if not misfits:
        print("tensors: all are there, each of its shape, and no others")
    return [f"{len(lines)} tensors {kind}" for kind, lines in misfits.items()]


def _verdict(found: "Identified", faults: list[str]) -> str:
    what = found.name or found.family
    if faults:
        return f"this is not {what} as it should be: {'; '.join(faults)}"
    return f"this is {what}"
