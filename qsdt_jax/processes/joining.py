"""Several processes that are one run: they meet, connect JAX, watch each other and part together."""

import collections
import contextlib
import ctypes
import signal
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
from qsdt_jax.processes.meeting import Meeting, meet
from qsdt_jax.processes.peers import Peers
from qsdt_jax.processes.preemption import Preempted

AUTOMATIC = "auto"
CONNECT_SECONDS = 60  # For processes that have met.
HEARTBEAT_SECONDS = 60  # After which JAX gives up a process that is silent, but still connected.
# After a peer's death the connection tells within this time; JAX's error may come first.
PATIENCE_SECONDS = 10


def is_first() -> bool:
    """Whether this process writes what a run leaves behind."""
    return jax.process_index() == 0


@contextlib.contextmanager
def joined(
    coordinator: str,
    num_processes: int | None,
    process_id: int | None,
    facts: Mapping[str, Any],
    *,
    timeout: float,
) -> Iterator[Peers]:
    """One run of several processes, from the start to the end of all.

    Args:
      coordinator: HOST:PORT of process 0, where it listens, [HOST]:PORT for IPv6; "auto" for a cluster that
        JAX knows (Slurm, Open MPI, TPU pods, Kubernetes).
      num_processes, process_id: number of processes and of this one; with "auto" JAX finds them.
      facts: nested plain data that must be the same in all processes.
      timeout: seconds to wait for the others.

    Yields:
      The other processes.

    Raises:
      UserError: no such address; a process does not come, has the id of another one, or counts differently.
      Preempted: as raised inside; the processes have parted. Any other error inside ends all processes at
        once, because JAX waits for all others when it exits; a UserError, also that their facts or numbers of
        devices differ, with its line and status 2.
    """
    if coordinator == AUTOMATIC:
        coordinator, num_processes, process_id = detected(timeout)
    elif num_processes is None or process_id is None or not 0 <= process_id < num_processes:
        raise UserError(
            f"coordinator={coordinator} needs num_processes=N and process_id=0..N-1, "
            f"found {num_processes} and {process_id}"
        )
    peers = Peers(meet(coordinator, num_processes, process_id, timeout))
    peers.watch()
    with _aborts_delayed(), _ending_together(peers):
        _initialize(coordinator, peers.meeting)
        peers.connect(_client())
        peers.require_same(facts)
        _require_equal_shares()
        yield peers


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


@contextlib.contextmanager
def _ending_together(peers: Peers) -> Iterator[None]:
    """Ends no process before the others, but where one gives up: then all."""
    try:
        yield
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


def _initialize(coordinator: str, meeting: Meeting) -> None:
    # Signals are the loop's, which all processes follow together.
    jax.config.update("jax_enable_preemption_service", False)
    devices = local_devices(meeting.count, meeting.index, jax.config.values["jax_platforms"])
    try:
        jax.distributed.initialize(
            coordinator,
            meeting.count,
            meeting.index,
            local_device_ids=devices,
            cluster_detection_method="deactivate",  # It would take one device where it knows the launcher.
            initialization_timeout=CONNECT_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
            coordinator_bind_address=meeting.bind_address,
        )
    except RuntimeError as error:
        raise UserError(f"JAX does not connect the processes at {coordinator}: {error}") from None


def _client() -> Any:
    # JAX gives no public way to the key-value store of its coordination service.
    from jax._src.distributed import global_state

    return global_state.client


@contextlib.contextmanager
def _aborts_delayed() -> Iterator[None]:
    """Meanwhile a thread that aborts this process first sleeps for seconds.

    Where process 0 dies, JAX's service dies with it, and JAX aborts this process in a thread of its own. (The
    client's `missed_heartbeat_callback` is no way out: JAX fails to pass it the status, and aborts as well.)
    In these seconds the watch tells the death in one line, and ends the process.
    """
    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    libc.signal.argtypes = ctypes.c_int, ctypes.c_void_p
    # C calls sleep(6), for SIGABRT is signal 6. It needs no lock and no memory, which Python's handlers do.
    before = libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))
    try:
        yield
    finally:
        libc.signal(signal.SIGABRT, before)
