"""Who is who on a cluster, and which of its host's devices each process takes.

JAX asks Slurm, Open MPI, TPU pods and Kubernetes for the processes. It gives every process of a launcher one
device, also where that process is alone on a host with eight. Here a process takes its share of them.
"""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from qsdt_jax.errors import UserError

# Variables of a launcher: rank and size of all, rank on this host, and size there where it tells.
_MPI = (
    (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),  # MPICH and Intel MPI.
)
_SLURM = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
# With one of these, Slurm shows each task its own devices and no others.
_SLURM_BINDS = ("SLURM_GPUS_PER_TASK", "SLURM_NTASKS_PER_GPU", "SLURM_GPU_BIND", "SLURM_TRES_PER_TASK")
_BINDS_NOTHING = ("", "none")
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
_NAMED = "JAX_LOCAL_DEVICE_IDS"


class Place(NamedTuple):
    """A process among those of its host.

    Attributes:
      rank: its number there, from 0.
      size: how many there are; None where there are several, and the launcher does not say how many.
    """

    rank: int
    size: int | None


def detected(timeout: float) -> tuple[str, int, int]:
    """HOST:PORT of process 0, the number of processes, and that of this one.

    Args:
      timeout: seconds to wait for the name of process 0's host to be known.

    Raises:
      UserError: JAX finds no cluster here, or cannot tell.
    """
    try:
        # What `jax.distributed.initialize` asks; it has no public name, and the processes meet before.
        from jax._src.clusters import ClusterEnv

        address, count, index, _ = ClusterEnv.auto_detect_unset_distributed_params(
            os.environ.get("JAX_COORDINATOR_ADDRESS"), None, None, None, None, max(1, int(timeout))
        )
    except Exception as error:  # Each kind of cluster has its own.
        raise _unknown(f"{type(error).__name__}: {error}") from None
    if address is None or count is None or index is None:
        raise _unknown("neither Slurm nor Open MPI, TPU or Kubernetes")
    return address, count, index


def local_devices(count: int, index: int, platforms: str | None = None) -> list[int] | None:
    """Which of the devices that this process sees it takes; None for all of them.

    JAX_LOCAL_DEVICE_IDS names them. Else a process that is alone on its host takes all. So does one to which
    the launcher or CUDA_VISIBLE_DEVICES shows its own, and one that no launcher started. Others share what
    they see evenly, or take one each where their numbers are not known.

    Args:
      count, index: of all processes, of this one. A launcher that says otherwise did not start this run.
      platforms: as in JAX_PLATFORMS; on a CPU there is nothing to share.

    Raises:
      UserError: the devices cannot be shared evenly, or a variable is no number.
    """
    environment = os.environ
    if named := environment.get(_NAMED):
        return [_number(_NAMED, part) for part in named.split(",")]
    place = _place(environment, count, index)
    if platforms == "cpu" or place is None or place.size == 1 or _bound_by_slurm(environment):
        return None
    seen = _seen(environment)
    if seen is None:
        return [place.rank]
    variable, devices = seen
    if devices == 0 or (devices == 1 and variable in _VISIBLE):  # One that is shown is a process's own.
        return None
    if place.size is None and place.rank < devices:
        return [place.rank]
    if place.size is None or devices % place.size:
        raise UserError(
            f"{place.size or f'more than {place.rank}'} processes on this host cannot share its {devices} "
            f"devices evenly ({variable}); start one, or one for each device, or name those of each with "
            f"{_NAMED}"
        )
    share = devices // place.size
    return list(range(place.rank * share, (place.rank + 1) * share))


def _place(environment: Mapping[str, str], count: int, index: int) -> Place | None:
    """Where this process stands on its host; None where no launcher says so."""
    for rank, size, local_rank, local_size in _MPI:  # First, because mpirun may have been started by Slurm.
        if local_rank in environment and _is_of_run(environment, rank, size, count, index):
            known = _number(local_size, environment[local_size]) if local_size in environment else None
            return Place(_number(local_rank, environment[local_rank]), known)
    rank, size, local_rank = _SLURM
    if local_rank in environment and _is_of_run(environment, rank, size, count, index):
        return Place(_number(local_rank, environment[local_rank]), _tasks_on_this_node(environment, count))
    return None


def _is_of_run(environment: Mapping[str, str], rank: str, size: str, count: int, index: int) -> bool:
    return environment.get(rank) == str(index) and environment.get(size) == str(count)


def _tasks_on_this_node(environment: Mapping[str, str], count: int) -> int | None:
    """As Slurm tells it, in one way or another; None where it does not."""
    node = environment.get("SLURM_NODEID", "")
    for name in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"):
        tasks = _unfolded(environment.get(name, ""))
        if sum(tasks) == count and node.isdecimal() and int(node) < len(tasks):
            return tasks[int(node)]
        if sum(tasks) == count and len(set(tasks)) == 1:
            return tasks[0]
    nodes = next(
        (int(environment[name]) for name in ("SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES")
         if environment.get(name, "").isdecimal()),
        _length(environment.get("SLURM_STEP_NODELIST", "")),
    )  # fmt: skip
    if nodes < 1:
        return None
    # Slurm leaves no node of a step without a task.
    return 1 if count <= nodes else None if count % nodes and nodes > 1 else count // nodes


def _unfolded(tasks: str) -> list[int]:
    """[2, 2, 1] of "2(x2),1"; nothing of what is written otherwise."""
    found: list[int] = []
    for part in tasks.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:\(x(\d{1,6})\))?", part)
        if match is None:
            return []
        found += [int(match[1])] * int(match[2] or 1)
    return found


def _length(nodes: str) -> int:
    """How many names are in "a,b[01-03,7]"; 0 where it is not written so."""
    total = 0
    for item in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodes):
        names = 1
        for ranges in re.findall(r"\[([^\]]*)\]", item):
            inside = [re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part) for part in ranges.split(",")]
            names *= sum(int(m[2] or m[1]) - int(m[1]) + 1 if m else 0 for m in inside)
        total += names
    return total


def _bound_by_slurm(environment: Mapping[str, str]) -> bool:
    if "SLURM_LOCALID" not in environment:
        return False
    values = {name: environment.get(name, "").lower() for name in _SLURM_BINDS}
    if "gpu" not in values["SLURM_TRES_PER_TASK"]:
        values["SLURM_TRES_PER_TASK"] = ""
    return any(value not in _BINDS_NOTHING for value in values.values())


def _seen(environment: Mapping[str, str]) -> tuple[str, int] | None:
    """The number of devices that this process is shown, and the variable that says so."""
    for name in _VISIBLE:
        if name in environment:
            shown = environment[name].split(",")
            # As CUDA does, which sees nothing behind what is no device.
            hidden = [i for i, device in enumerate(shown) if device.strip() in ("", "-1", "NoDevFiles")]
            return name, min(hidden, default=len(shown))
    on_node = environment.get("SLURM_GPUS_ON_NODE", "")
    return ("SLURM_GPUS_ON_NODE", int(on_node)) if on_node.isdecimal() else None


def _number(name: str, text: str) -> int:
    if not text.strip().isdecimal() or len(text) > 6:
        raise UserError(f"{name}: expected a whole number, or several with commas; found {text!r}")
    return int(text)


def _unknown(reason: str) -> UserError:
    return UserError(
        f"coordinator=auto: JAX finds no cluster here ({reason}); "
        "give coordinator=HOST:PORT num_processes=N process_id=I"
    )
