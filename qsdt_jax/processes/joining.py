"""Several processes that are one run: they meet, connect JAX, watch each other and part together."""

import collections
import contextlib
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qsdt_jax.devices import require_devices
from qsdt_jax.errors import UserError
from qsdt_jax.processes.cluster import detected, local_devices
from qsdt_jax.processes.meeting import meet
from qsdt_jax.processes.peers import Peers
from qsdt_jax.processes.preemption import Preempted

AUTOMATIC = "auto"
HEARTBEAT_SECONDS = 60  # After which JAX gives up a process that is silent, but still connected.
# After a peer's death the connection tells within this time; JAX's error may come first.
PATIENCE_SECONDS = 10


def is_first() -> bool:
    """Whether this process writes what a run leaves behind."""
    return jax.process_index() == 0


@contextlib.contextmanager
def joined(
    address: str, count: int | None, index: int | None, facts: Mapping[str, Any], *, timeout: float
) -> Iterator[Peers]:
    """One run of several processes, from the start to the end of all.

    Args:
      address: HOST:PORT of process 0, where it listens; "auto" for a cluster that JAX knows (Slurm, Open MPI,
        TPU pods, Kubernetes).
      count, index: number of processes and of this one; with "auto" JAX finds them.
      facts: nested plain data that must be the same in all processes.
      timeout: seconds to wait for the others.

    Yields:
      The other processes.

    Raises:
      UserError: no such address; a process does not come or has the id of another one; facts that differ;
        processes with different numbers of devices.
      Preempted: as raised inside; the processes have parted. Any other error inside ends all processes at
        once, because JAX waits for all others when it exits; a UserError with its line and status 2.
    """
    if address == AUTOMATIC:
        address, count, index = detected(timeout)
    elif count is None or index is None or not 0 <= index < count:
        raise UserError(
            f"--coordinator={address} needs --num_processes=N and --process_id=0..N-1, "
            f"found {count} and {index}"
        )
    peers = Peers(meet(address, count, index, facts, timeout))
    peers.watch()
    try:
        _initialize(timeout, peers.meeting.service, count, index)
        _require_equal_shares()
        yield peers
    except Preempted:
        _part(peers)
        raise
    except UserError as error:
        peers.refuse(error)
    except Exception:
        time.sleep(PATIENCE_SECONDS)  # If a collective failed because a peer died, the watch tells that.
        peers.give_up(traceback.format_exc())
    except KeyboardInterrupt:
        peers.give_up("stopped")
    _part(peers)


def require_same(numbers: Mapping[str, int], *, seen: str) -> None:
    """Compares numbers of this process with those of all others.

    Args:
      numbers: by name, each from 0 to 2^32 - 1.
      seen: what they were read from, for the message.

    Raises:
      UserError: they differ; in all processes alike.
    """
    if jax.process_count() == 1:
        return
    mine = np.asarray(list(numbers.values()), np.uint32)
    for name, found in zip(numbers, np.asarray(multihost_utils.process_allgather(mine)).T, strict=True):
        if len(set(found.tolist())) > 1:
            raise UserError(
                f"the {name} is not the same in all processes: {found.tolist()}; "
                f"does each see the same {seen}?"
            )


class Vote:
    """Whether any process has raised its hand, known to all of them at the same call.

    The answer is that of the call before, so nobody waits for it.
    """

    def __init__(self):
        mesh = Mesh(np.asarray(jax.devices()), ("devices",))
        self._rows = NamedSharding(mesh, PartitionSpec("devices"))
        self._any = jax.jit(jnp.any, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._running: jax.Array | None = None

    def call(self, hand: bool) -> bool:
        """Raises this process's hand or not; True where one was raised at the call before."""
        answer = self._running
        hands = np.full(jax.local_device_count(), hand)
        self._running = self._any(jax.make_array_from_process_local_data(self._rows, hands))
        return answer is not None and bool(answer)


def _require_equal_shares() -> None:
    """Refuses processes of which one has more devices than another: each reads as much of a batch."""
    require_devices()
    counts = collections.Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        raise UserError(
            f"the processes have {[counts[i] for i in range(jax.process_count())]} devices; "
            "each must have as many (see CUDA_VISIBLE_DEVICES, JAX_LOCAL_DEVICE_IDS)"
        )


def _part(peers: Peers) -> None:
    peers.part()
    jax.distributed.shutdown()


def _initialize(timeout: float, service: str, count: int, index: int) -> None:
    # Signals are the loop's, which all processes follow together.
    jax.config.update("jax_enable_preemption_service", False)
    devices = local_devices(count, index, jax.config.values["jax_platforms"])
    try:
        jax.distributed.initialize(
            service,
            count,
            index,
            local_device_ids=devices,
            cluster_detection_method="deactivate",  # It would take one device where it knows the launcher.
            initialization_timeout=max(1, int(timeout)),
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except RuntimeError as error:
        raise UserError(f"JAX does not connect the processes at {service}: {error}") from None
