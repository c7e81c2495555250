"""`qsdt_jax.save`: a network as a folder that others can load, with a card that says what it is."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from qsdt_jax import bounds
from qsdt_jax.assemble.build import plain
from qsdt_jax.assemble.network import network_shapes, require_network, timesteps_of
from qsdt_jax.assemble.tasks import task_factory
from qsdt_jax.data.classes import Classes
from qsdt_jax.errors import UserError
from qsdt_jax.files import expanded, write_atomically
from qsdt_jax.interop.fit import check_fit
from qsdt_jax.loading.opened import Network
from qsdt_jax.loading.trained import stored_config, use_float64_if_asked
from qsdt_jax.models.operations import layer_operations
from qsdt_jax.models.told import amount, network_told, title_told
from qsdt_jax.tasks.operations import macs_of
from qsdt_jax.train.state import parameter_count
from qsdt_jax.workdir.provenance import code_version
from qsdt_jax.workdir.workdir import CONFIG_FILE

MODEL_FILE, CARD_FILE = "model.safetensors", "README.md"
FORMAT = "qsdt_jax 1"
CONFIG_SUM = "crc32 of config.json"
# Places on the machine of the one who trained, which say nothing to others.
PLACES = (("data", "path"), ("distill", "teacher"), (None, "start_from"))
SHOWN_CLASSES = 20
PREDICT = '    network.predict(["a.png", "b.jpg"]).top(3)'


def save(network: Network, folder: str | Path) -> None:
    """Writes a network as a folder: `config.json`, `model.safetensors`, and a model card `README.md`.

    `qsdt_jax.load(folder)` gives the same network again, with the same logits bit for bit.

    Args:
      network: of `qsdt_jax.load`; no bundle, which is a file already.
      folder: new or empty, or written by an earlier `save`.

    Raises:
      UserError: a bundle; a folder that holds something else, as a model of another library, or cannot be
        written.
    """
    if not isinstance(network, Network):
        found = type(network).__name__
        raise UserError(f"save takes a network with variables, found {found}; a bundle is a file already")
    folder = Path(expanded(str(folder)))
    _require_own(folder)
    config = plain(network.config)
    for section, key in PLACES:
        (config if section is None else config[section])[key] = ""
    origin = {**network.origin, "saved_with": code_version()}
    written = (json.dumps(config, indent=2) + "\n").encode()
    content = _content(network, origin, written)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror}") from None
    write_atomically(folder / MODEL_FILE, content)  # First: the other two do not say whose they are.
    write_atomically(folder / CONFIG_FILE, written)
    write_atomically(folder / CARD_FILE, model_card(network, origin))


def load_saved(folder: Path) -> Network:
    """The network in a folder that `save` wrote; raises UserError where it is damaged or not whole."""
    config = stored_config(folder)
    use_float64_if_asked(config)
    file = folder / MODEL_FILE
    try:
        with safetensors.safe_open(file, framework="np") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file} is damaged or cut off ({error})") from None
    if metadata.get("format") != FORMAT:
        raise UserError(f"{file} was not written by `qsdt_jax.save`: expected the format {FORMAT!r}")
    try:
        about, checksums = json.loads(metadata["about"]), json.loads(metadata["crc32"])
        names, outputs, origin = about["class_names"], about["outputs"], about["origin"]
        if type(outputs) is not int or not 1 <= outputs <= bounds.CLASSES:
            raise ValueError(f"{outputs!r} outputs")
        if names is not None and [type(name) for name in names] != [str] * outputs:
            raise ValueError(f"the names of its classes are not {outputs} texts")
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{file} is damaged ({type(error).__name__}: {error})") from None
    if _checksums(tensors, metadata["about"]) != checksums:
        raise UserError(f"{file} is damaged: its checksums differ; fetch it again")
    # Folders from before have no checksum of their configuration.
    if metadata.get(CONFIG_SUM) not in (None, _config_sum((folder / CONFIG_FILE).read_bytes())):
        raise UserError(
            f"{folder / CONFIG_FILE} is not the one that {MODEL_FILE} was saved with: its checksum differs; "
            "save or fetch the folder again"
        )
    classes = Classes(
        where=f"the network in {folder}", outputs=outputs, names=None if names is None else tuple(names)
    )
    task = task_factory(config.task.name).build(config, classes.shown)
    model = require_network(task.model, str(folder))
    expected: Any = flatten_dict(network_shapes(model, config), sep="/")
    shapes = ({name: leaf.shape for name, leaf in tree.items()} for tree in (expected, tensors))
    check_fit(str(file), *shapes)
    variables = unflatten_dict({tuple(name.split("/")): jnp.asarray(x) for name, x in tensors.items()})
    return Network(
        where=str(folder),
        config=config,
        task=task,
        variables=variables,
        classes=classes,
        origin=origin,
    )


def _require_own(folder: Path) -> None:
    """Refuses a place where something else lies, also under the names that `save` gives its own files."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; expected a folder")
    found, own = {entry.name for entry in folder.iterdir()}, {CONFIG_FILE, MODEL_FILE, CARD_FILE}
    # Other libraries call their files alike; the tensors alone say whose they are.
    others = sorted(found - own) or ([] if _is_own(folder / MODEL_FILE) else sorted(found))
    if others:
        raise UserError(f"{folder} holds {others[0]}; expected a new folder, or one that `save` wrote")


def _is_own(file: Path) -> bool:
    """Whether `save` wrote the tensors."""
    try:
        with safetensors.safe_open(file, framework="np") as opened:
            return (opened.metadata() or {}).get("format") == FORMAT
    except (safetensors.SafetensorError, OSError, ValueError):
        return False


def _content(network: Network, origin: Mapping[str, Any], config: bytes) -> bytes:
    tensors = {
        name: np.ascontiguousarray(leaf) for name, leaf in flatten_dict(network.variables, sep="/").items()
    }
    classes = network.classes
    about = json.dumps(
        {
            "class_names": None if classes.names is None else list(classes.names),
            "outputs": classes.outputs,
            "origin": dict(origin),
        }
    )
    checksums = json.dumps(_checksums(tensors, about))
    metadata = {"format": FORMAT, "about": about, "crc32": checksums, CONFIG_SUM: _config_sum(config)}
    return safetensors.numpy.save(tensors, metadata)


def _checksums(tensors: Mapping[str, np.ndarray], about: str) -> dict[str, int]:
    sums = {name: zlib.crc32(np.ascontiguousarray(tensors[name]).data) for name in sorted(tensors)}
    return {**sums, "about": zlib.crc32(about.encode())}


def _config_sum(config: bytes) -> str:
    return str(zlib.crc32(config))


def model_card(network: Network, origin: Mapping[str, Any]) -> str:
    """The card in Markdown: what the network is, its data, its score, where it came from, how to load it."""
    data, classes = network.config.data, network.classes
    height, width = data.image_size
    macs = macs_of(network.task, layer_operations(network.model, (height, width)))
    names = ", ".join(classes.shown[:SHOWN_CLASSES]) + (", ..." if classes.outputs > SHOWN_CLASSES else "")
    known = names if classes.names is not None else "their names are not known"
    inputs = f"{timesteps_of(network.model)} frames of events" if data.events else "images"
    scores = [f"| {name} | {value:.4g} |" for name, value in sorted(origin.get("scores", {}).items())]
    table = ["| metric | value |", "|---|---|", *scores] if scores else ["It was not evaluated here."]
    facts = {name: value for name, value in origin.items() if name not in ("scores", "saved_with")}
    code, answering = origin["saved_with"], network.answering
    kind = "network" if answering is None else answering.network
    return "\n".join(
        [
            "---",
            "library_name: qsdt_jax",
            *([] if answering is None else [f"pipeline_tag: {answering.pipeline_tag}"]),
            "---",
            "",
            f"# {title_told(network.model)}",
            "",
            f"A {kind} with {network_told(network.model)}, "
            f"{parameter_count(network.variables):,} parameters, "
            f"{amount(macs)} multiply-accumulates an image.",
            "",
            "## Data",
            "",
            f"Source: {data.source}. Inputs: {inputs} of {height}x{width}x{data.channels}, mean "
            f"{tuple(data.mean)}, standard deviation {tuple(data.std)}. {classes.outputs} classes: {known}.",
            "",
            "## Score",
            "",
            *table,
            "",
            "## Provenance",
            "",
            *(f"* {name}: {value}" for name, value in facts.items()),
            f"* saved with commit {code['commit']}, "
            + ", ".join(f"{name} {version}" for name, version in code["versions"].items()),
            "",
            "## Load",
            "",
            "    import qsdt_jax",
            "",
            '    network = qsdt_jax.load("FOLDER")            # this folder',
            *([] if answering is None else [f"{PREDICT}   # {answering.answers}"]),
            "    network.model.apply(network.variables, x)    # outputs for inputs (B, H, W, C)",
            "",
        ]
    )
