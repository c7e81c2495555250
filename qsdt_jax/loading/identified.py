"""Which network a checkpoint holds, by its names and shapes, and whether its tensors are all of it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from qsdt_jax.errors import UserError
from qsdt_jax.interop import torch_file
from qsdt_jax.interop.fit import Misfits
from qsdt_jax.interop.published import misfits
from qsdt_jax.loading.opened import Network
from qsdt_jax.loading.opening import PUBLISHED, DeployedNetwork, kind_of_file, load
from qsdt_jax.loading.published import described, with_weights
from qsdt_jax.models import Classifier, MaskRCNN, Segmenter, SpikingResformer
from qsdt_jax.models.sdtv2 import SDTV2
from qsdt_jax.models.shapes import variable_shapes
from qsdt_jax.models.zoo import published_name

# Fields that neither names nor shapes of tensors tell, of a network with a `Backbone`.
UNTOLD = ("bits", "neuron", "levels", "timesteps", "num_heads", "attention_scale")
# Fields that a size is known by, of a network of either kind.
SIZES = (
    *("channels", "depth", "mlp_ratio"),
    *("num_heads", "patches", "depths", "group_size", "small_images", "learned_decay"),
)
NO_MISFITS = Misfits({}, {}, {})
HEADS = {Classifier: "classifier", Segmenter: "segmenter", MaskRCNN: "detector"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identified:
    """A checkpoint, and the network that it is of.

    Attributes:
      where: the file or workdir.
      family: what the field calls the network.
      name: of its size, one of `models.list_models()`; None for a size without a name.
      classes: outputs.
      parameters: numbers that training moves.
      told: its fields as the file tells them.
      assumed: fields that it does not tell, as they were given or usually are; of a workdir there are none.
      misfits: tensors of the file that are not those of the network.
      network: with its weights; None where the tensors do not fit.
    """

    where: str
    family: str
    name: str | None
    classes: int
    parameters: int
    told: Mapping[str, Any]
    assumed: Mapping[str, Any]
    misfits: Misfits
    network: Network | None


def identify(
    path: str | Path, *, step: str = "latest", ema: bool = False, fields: Mapping[str, Any] | None = None
) -> Identified:
    """Says which network lies there; arguments and errors as of `qsdt_jax.load`.

    Tensors of a published file that do not fit its network are no error here: they are told.

    Raises:
      UserError: also for a bundle, which holds the binary form and no other to compare it with.
    """
    path, fields = Path(path), fields or {}
    if kind_of_file(path) != PUBLISHED:
        network = load(path, step=step, ema=ema, **fields)
        if isinstance(network, DeployedNetwork):
            raise UserError(
                f"{path} is a bundle, which holds the binary form alone; expected a checkpoint or a workdir"
            )
        return _of_network(network)
    if step != "latest":
        raise UserError(f"{path} is a {PUBLISHED}: it has no choice of step")
    return _of_file(str(path), torch_file.load(path, ema=ema), fields, ema)


def _of_file(label: str, tensors: Mapping[str, Any], fields: Mapping[str, Any], ema: bool) -> Identified:
    of = described(label, tensors, fields)
    model, found = of.task.model, misfits(of.task.model, tensors)
    return Identified(
        where=label,
        family=_family(model),
        name=published_name(type(model), of.told),
        classes=of.classes.outputs,
        parameters=_parameters(model),
        told=of.told,
        assumed={name: of.config.model[name] for name in _untold(model) if name not in of.told},
        misfits=found,
        network=None if found else with_weights(label, tensors, of, ema=ema),
    )


def _of_network(network: Network) -> Identified:
    model = network.model
    base = model if isinstance(model, SpikingResformer) else model.backbone
    sizes = {name: getattr(base, name) for name in SIZES if hasattr(base, name)}
    family = SDTV2 if _is_sdtv2(model) else {}
    return Identified(
        where=network.where,
        family=_family(model),
        name=published_name(type(model), {**sizes, **family}),
        classes=network.classes.outputs,
        parameters=_parameters(model),
        told={**sizes, **{name: getattr(base, name) for name in _untold(model)}},
        assumed={},
        misfits=NO_MISFITS,
        network=network,
    )


def _untold(model: Any) -> tuple[str, ...]:
    return ("timesteps",) if isinstance(model, SpikingResformer) else UNTOLD


def _family(model: Any) -> str:
    if isinstance(model, SpikingResformer):
        return "SpikingResformer"
    name = "Spike-driven Transformer V2" if _is_sdtv2(model) else "quantized spike-driven transformer"
    return f"{name}, {HEADS[type(model)]}"


def _is_sdtv2(model: Any) -> bool:
    return not isinstance(model, SpikingResformer) and all(
        getattr(model.backbone, name) == value for name, value in SDTV2.items()
    )


def _parameters(model: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(variable_shapes(model)["params"]))
