"""Who is who on a cluster that JAX knows: Slurm, Open MPI, TPU pods, Kubernetes."""

import os

from qsdt_jax.errors import UserError


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


def _unknown(reason: str) -> UserError:
    return UserError(
        f"--coordinator=auto: JAX finds no cluster here ({reason}); "
        "give --coordinator=HOST:PORT --num_processes=N --process_id=I"
    )
