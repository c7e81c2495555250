"""somebody's checkpoint -> which network it is, whether its binary form is the same, rates, energy."""

import ast
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from launch.flags import DEFINED_OFTEN, POSITIONAL, define_path, require_writable
from qsdt_jax.errors import UserError
from qsdt_jax.files import expanded

# The libraries are imported where they are used, so that --help answers at once.
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qsdt_jax.deploy.bundle import Bundle
    from qsdt_jax.energy.report import Report
    from qsdt_jax.loading.identified import Identified
    from qsdt_jax.loading.opened import Network
    from qsdt_jax.verification.comparison import Difference
    from qsdt_jax.verification.theirs import Theirs

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
DRAWN = flags.DEFINE_integer(
    "drawn", 4, "images to draw where none are named; 0 to look at the tensors alone", lower_bound=0
)
THEIRS = define_path(
    "theirs",
    "what another program gave: a file of numpy.savez(file, images=..., logits=..., **counts_by_neuron)",
)
OUT = define_path("out", "file for the bundle, e.g. model.qsdt")
JSON = define_path("json", "file for all that is told, as JSON")


def main() -> int:
    """Verifies as the flags say; 0 where all holds, 1 where something differs."""
    from qsdt_jax.files import write_atomically
    from qsdt_jax.loading.identified import identify

    if not FILES.value:
        raise UserError("verify needs a checkpoint, e.g. verify qsd_s.pth one.png two.jpg")
    path, *images = map(expanded, FILES.value)
    for flag, file in (("out", OUT.value), ("json", JSON.value)):
        if file:
            require_writable(flag, file, (path, *images, THEIRS.value or path))
    theirs = _theirs(images)
    found = identify(path, step=STEP.value, ema=EMA.value, fields=_fields())
    told = Told({"file": path})
    _identity(found, told)
    _misfits(found, told)
    if found.network is not None and (DRAWN.value or images or theirs):
        _run(found.network, images, theirs, told)
    verdict = told.verdict(found.name or found.family)
    print(f"verdict: {verdict}")
    if JSON.value:
        told.record |= {"verdict": verdict, "holds": not told.faults}
        write_atomically(Path(JSON.value), json.dumps(told.record, indent=1) + "\n")
    return int(bool(told.faults))


@dataclasses.dataclass
class Told:
    """What was found, as it goes on.

    Attributes:
      record: plain data of all of it.
      holds: what was checked and holds.
      faults: what was checked and does not.
      left_out: what was not checked, with the reason.
    """

    record: dict[str, Any]
    holds: list[str] = dataclasses.field(default_factory=list)
    faults: list[str] = dataclasses.field(default_factory=list)
    left_out: list[str] = dataclasses.field(default_factory=list)

    def leave_out(self, what: str) -> None:
        """Says what is not checked and why."""
        print(f"not checked: {what}")
        self.left_out.append(what)

    def compared(self, name: str, found: "str | Difference", holds: str, fails: str) -> None:
        """Tells a comparison, and keeps it under a name."""
        lines = [found] if isinstance(found, str) else found.lines
        print(*(f"{name}: {line}" for line in lines), sep="\n")
        self.record[name] = lines
        if isinstance(found, str):
            self.holds.append(holds)
        else:
            cause = found.cause and found.cause.mistake
            self.faults.append(f"{fails}" + (f", probably because {cause}" if cause else ""))

    def verdict(self, what: str) -> str:
        """All of it in a sentence."""
        unchecked = f"; not checked: {'; '.join(self.left_out)}" if self.left_out else ""
        if self.faults:
            return f"differs from {what}: {'; '.join(self.faults)}{unchecked}"
        return f"holds as {what}: {'; '.join(self.holds)}{unchecked}"


def _theirs(images: "Sequence[str]") -> "Theirs | None":
    """The flag's file; raises UserError where there are images besides its own."""
    from qsdt_jax.verification.theirs import read_theirs

    if not THEIRS.value:
        return None
    if images:
        raise UserError(f"--theirs {THEIRS.value} has its images; found {images[0]} besides")
    return read_theirs(THEIRS.value)


def _run(network: "Network", images: "Sequence[str]", theirs: "Theirs | None", told: Told) -> None:
    """Runs a network on images, and tells what that shows."""
    from qsdt_jax.deploy.program import Program
    from qsdt_jax.verification.comparison import compare_forms, compare_theirs, energy_of
    from qsdt_jax.verification.seen import SEED, batches_of, drawn_batches, image_files

    if theirs:
        batches, words = [theirs.batch(network)], f"of {THEIRS.value}"
    elif images:
        batches, words = batches_of(network, image_files(images)), "given"
    else:
        batches = drawn_batches(network, DRAWN.value)
        words = f"drawn with seed {SEED}, whose firing rates are not those of real images"
    number, shape = sum(len(b["image"]) for b in batches), "x".join(map(str, batches[0]["image"].shape[1:-1]))
    print(f"images: {number:,} of {shape} pixels, {words}")
    told.record["images"] = {"number": number, "shape": list(batches[0]["image"].shape[1:]), "from": words}
    bundle = _bundle(network, told)
    if bundle is not None:
        steps = f"D = {bundle.program.neuron.levels}, T = {bundle.program.neuron.timesteps}"
        found = compare_forms(network, bundle, batches, Path(OUT.value) if OUT.value else None)
        told.compared(
            "forms",
            found,
            f"its form of binary spikes ({steps}) is its training form",
            f"its form of binary spikes ({steps}) is not its training form",
        )
    if theirs:
        program = bundle.program if bundle and isinstance(bundle.program, Program) else None
        found = compare_theirs(network, program, theirs)
        told.compared("theirs", found, f"{THEIRS.value} is it", f"{THEIRS.value} is not it")
    try:
        report = energy_of(network, bundle, batches)
    except UserError as error:
        told.leave_out(f"its firing rates and its energy: {error}")
    else:
        _rates(report, network.config.data.image_size, told)


def _bundle(network: "Network", told: Told) -> "Bundle | None":
    """The folded network, written where --out says; None where it has no binary form, which is told."""
    from qsdt_jax.deploy.bundle import write_bundle
    from qsdt_jax.loading.deployed import bundle_of_network

    try:
        bundle = bundle_of_network(network)
    except UserError as error:
        if OUT.value:
            raise
        told.leave_out(f"its form of binary spikes: {error}")
        return None
    if OUT.value:
        size = write_bundle(OUT.value, bundle)
        print(f"{OUT.value}: {size:,} bytes")
        told.record["bundle"] = {"file": OUT.value, "bytes": size}
    return bundle


def _rates(report: "Report", image_size: "tuple[int, int]", told: Told) -> None:
    """Prints firing rates, and what an image costs at these."""
    from qsdt_jax.energy.report import console_table, verdicts
    from qsdt_jax.verification.comparison import rates_by_stage

    stages = rates_by_stage(report.activity)
    print("firing rates, the share of slots that carry a spike:")
    print(*(f"  {stage:<16}{100 * rate:6.2f} %" for stage, rate in stages.items()), sep="\n")
    told.record["firing_rates"] = stages
    print(f"energy of an image of {image_size[0]}x{image_size[1]} pixels at these rates:")
    print(console_table(report), *verdicts(report), sep="\n")
    told.record["energy_pj"] = {name: total._asdict() for name, total in report.totals.items()}
    told.record["neurobench"] = dataclasses.asdict(report.neurobench)


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


def _identity(found: "Identified", told: Told) -> None:
    """Prints which network it is."""
    size = f"of the size {found.name}" if found.name else "of a size without a name"
    print(
        f"{found.where}: {found.family}, {size}, {found.parameters / 1e6:.4g} M parameters, "
        f"{found.classes:,} classes"
    )
    print(
        f"told by {'its configuration' if not found.assumed else 'names and shapes'}: {_listed(found.told)}"
    )
    if found.assumed:
        print(f"not told by the file, assumed (change it with --fields): {_listed(found.assumed)}")
    told.record["network"] = {
        "family": found.family,
        "name": found.name,
        "parameters": found.parameters,
        "classes": found.classes,
        "told": dict(found.told),
        "assumed": dict(found.assumed),
    }


def _listed(fields: "Mapping[str, Any]") -> str:
    return ", ".join(f"{name}={value}" for name, value in fields.items())


def _misfits(found: "Identified", told: Told) -> None:
    """Prints whether the tensors are those of the network."""
    misfits = found.misfits.told()
    for kind, lines in misfits.items():
        print(f"tensors {kind} ({len(lines)}):", *lines, sep="\n  ")
        told.faults.append(f"{len(lines)} tensor{'s' * (len(lines) > 1)} {kind}")
    if not misfits:
        print("tensors: all are there, each of its shape, and no others")
        told.holds.append("all tensors are there")
    told.record["misfits"] = found.misfits._asdict()
