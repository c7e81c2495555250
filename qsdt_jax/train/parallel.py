"""How a run is spread over devices: one train step, two ways to run it, one order of the samples.

    jit     a mesh with axes "data" and "fsdp". Arrays are whole and lie in pieces; the compiler puts the
            communication in. Rows of a batch are spread over both axes, large tensors of the state over
            "fsdp".
    pmap    every device has the whole state and its rows of the batch; `qsdt_jax.devices` says what they
            exchange.

Both compute the update of the whole batch, with keys drawn for the whole batch. What does not depend on the
number of devices, nor on the way, bit for bit: the order and augmentation of samples, the initial state (with
fsdp = 1), products of spikes, and with `exact_evaluation` the logits and counts of an evaluation. Sums over a
batch (losses, gradients, batch statistics) are added in another order, so a training agrees to rounding.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qsdt_jax.devices import AXIS
from qsdt_jax.errors import OutOfRange
from qsdt_jax.jit_once import jit_once

Mode = Literal["jit", "pmap"]
DATA, FSDP = "data", "fsdp"


def check_parts(batch_size: int, accumulate: int, norm_group: int) -> None:
    """Refuses a batch that does not divide on any device: into micro-batches, and those into groups.

    Raises:
      OutOfRange: names the one that does not divide.
    """
    part, left = divmod(batch_size, accumulate)
    if left:
        raise OutOfRange("accumulate", f"{accumulate} does not divide the batch of {batch_size} images")
    if norm_group and part % norm_group:
        raise OutOfRange("norm_group", f"{norm_group} does not divide the {part} images of a micro-batch")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parallel:
    """Devices of a run and how they share its work.

    Attributes:
      mode: "jit" or "pmap".
      fsdp: devices that a large tensor of the state is cut over, with "jit"; 1 for whole copies everywhere.
      devices: all devices of all processes unless given.
      smallest_cut: elements of the smallest tensor that is cut; below, gathering costs more than it saves.

    Raises:
      OutOfRange: an unknown mode; devices that do not divide into groups of `fsdp`.
    """

    mode: Mode = "jit"
    fsdp: int = 1
    devices: tuple[Any, ...] = ()
    smallest_cut: int = 2**12

    def __post_init__(self):
        if not self.devices:
            # Those of a process next to each other: it then reads one stretch of each batch.
            everyone = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
            object.__setattr__(self, "devices", tuple(everyone))
        if self.mode not in get_args(Mode):
            raise OutOfRange("mode", f"{self.mode!r} is none of {', '.join(get_args(Mode))}")
        if self.fsdp < 1 or len(self.devices) % self.fsdp:
            raise OutOfRange("fsdp", f"{self.fsdp} does not divide the {len(self.devices)} devices")
        if self.mode == "pmap" and self.fsdp > 1:
            raise OutOfRange("fsdp", f"{self.fsdp} needs mode='jit'; pmap copies")

    @property
    def mesh(self) -> Mesh:
        """The devices by name of their axes."""
        devices = np.asarray(self.devices)
        if self.mode == "pmap":
            return Mesh(devices, (AXIS,))
        return Mesh(devices.reshape(-1, self.fsdp), (DATA, FSDP))

    @property
    def shards_in_step(self) -> int:
        """Parts of the batch that the train step sees, its argument `shards`."""
        return 1 if self.mode == "pmap" else len(self.devices)

    @property
    def flat_in_step(self) -> bool:
        """Whether the train step joins the tensors of the state in a few arrays, its argument `flat`.

        On GPUs it does; a CPU takes longer then (docs/benchmarks.md), and others were not looked at. Tensors
        that are cut over devices would have to be gathered.
        """
        return self.fsdp == 1 and self.devices[0].platform == "gpu"

    @property
    def everywhere(self) -> NamedSharding:
        """A whole copy on each device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def check_batch(self, batch_size: int, accumulate: int, norm_group: int) -> None:
        """Refuses a batch that does not divide as it has to.

        Raises:
          OutOfRange: as `check_parts`; by devices and micro-batches, or with pmap by devices and batch-norm
            groups.
        """
        check_parts(batch_size, accumulate, norm_group)
        shards = len(self.devices)
        if batch_size % (shards * accumulate):
            micro = f" in {accumulate} micro-batches" if accumulate > 1 else ""
            raise OutOfRange("batch_size", f"{batch_size} does not divide over {shards} devices{micro}")
        own = batch_size // shards // accumulate
        if self.mode == "pmap" and norm_group and own % norm_group:
            raise OutOfRange(
                "norm_group",
                f"{norm_group} does not divide the {own} images that a device has of "
                "a (micro-)batch; with mode='jit' a group may lie on several devices",
            )

    def rows(self, batch_size: int, accumulate: int = 1) -> list[int]:
        """The positions in a batch of what this process reads, in the order of its devices.

        A device holds its share of the first micro-batch, then of the second, and so on, each of them
        consecutive images of the batch.
        """
        shards = len(self.devices)
        order = np.arange(batch_size).reshape(accumulate, shards, -1).swapaxes(0, 1)
        own = [i for i, device in enumerate(self.devices) if device.process_index == jax.process_index()]
        return order[own].reshape(-1).tolist()

    def evaluation_batch_size(self, batch_size: int) -> int:
        """The smallest size from `batch_size` on that divides over the devices; what is added is padding."""
        return math.ceil(batch_size / len(self.devices)) * len(self.devices)

    def place(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """The rows that this process has read, as arrays of the whole batch on all devices.

        (B, ...), and with pmap (devices, B / devices, ...). Types of 64 bits become those of 32 unless
        `jax_enable_x64` is on; `data.pipeline` refuses integers that do not fit.
        """
        sharding = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))

        def put(rows: np.ndarray) -> jax.Array:
            if self.mode == "pmap":
                own = sharding.num_devices // jax.process_count()
                rows = rows.reshape(own, -1, *rows.shape[1:])
            return jax.make_array_from_process_local_data(sharding, rows)

        return {name: put(np.asarray(rows)) for name, rows in batch.items()}

    def batch_like(self, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.ShapeDtypeStruct]:
        """What `place` makes of a batch of these shapes, as shapes."""
        sharding = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))

        def placed(rows: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            shape = rows.shape
            if self.mode == "pmap":
                shape = (len(self.devices), shape[0] // len(self.devices), *shape[1:])
            return jax.ShapeDtypeStruct(shape, rows.dtype, sharding=sharding)

        return {name: placed(rows) for name, rows in shapes.items()}

    def state_like(self, shapes: Any) -> Any:
        """Shapes of a state as targets: `jax.ShapeDtypeStruct` with the sharding of each leaf."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._sharding(leaf.shape)),
            shapes,
        )

    def put_state(self, state: Any) -> Any:
        """A state that lies anywhere, each process having the same, in its shardings."""
        return jax.tree.map(lambda leaf: jax.device_put(leaf, self._sharding(leaf.shape)), state)

    def put_everywhere(self, tree: Any) -> Any:
        """A tree that lies anywhere, each process having the same, whole on each device."""
        return jax.device_put(tree, self.everywhere)

    def jit_initial(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What makes the state of these arguments, jitted so that each tensor is born where it will lie."""
        if self.fsdp == 1:
            return jit_once(function, out_shardings=self.everywhere)
        shardings = jax.tree.map(
            lambda leaf: leaf.sharding, self.state_like(jax.eval_shape(function, *arguments))
        )
        return jit_once(function, out_shardings=shardings)

    def train_step(self, function: Callable, state: Any) -> jax.stages.Wrapped:
        """(state, batch, task, seed) -> (state, metrics) over all devices, in the old state's memory."""
        if self.mode == "pmap":
            return jax.pmap(
                function,
                AXIS,
                in_axes=(None, 0, None, None),
                out_axes=(None, None),
                donate_argnums=0,
                devices=self.devices,
            )
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        return jax.jit(function, donate_argnums=0, out_shardings=(shardings, self.everywhere))

    def evaluation_step(self, function: Callable) -> jax.stages.Wrapped:
        """(variables, batch, task) -> `Scored` over all devices."""
        if self.mode == "pmap":
            return jax.pmap(function, AXIS, in_axes=(None, 0, None), out_axes=None, devices=self.devices)
        return jax.jit(function, out_shardings=self.everywhere)

    def _sharding(self, shape: tuple[int, ...]) -> NamedSharding:
        """Large tensors are cut along their longest axis that `fsdp` divides; the rest is everywhere."""
        divisible = [size if size % self.fsdp == 0 else 0 for size in shape]
        if self.fsdp == 1 or math.prod(shape) < self.smallest_cut or not any(divisible):
            return self.everywhere
        longest = divisible.index(max(divisible))
        return NamedSharding(self.mesh, PartitionSpec(*[None] * longest, FSDP))
