"""Each process takes the devices that it is meant to have, and the run says how many there are."""

import jax
import pytest

from qsdt_jax.errors import UserError
from qsdt_jax.processes import cluster, joining
from qsdt_jax.processes.meeting import Meeting

NODES = {"SLURM_JOB_ID": "4097", "SLURM_STEP_NODELIST": "gpu[07-08]"}
EIGHT = {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    """Whatever has started the tests, wherever and for whichever devices."""
    names = [name for group in (*cluster._MPI, cluster._SLURM, cluster._SLURM_BINDS) for name in group]
    on_nodes = (
        "STEP_TASKS_PER_NODE",
        "TASKS_PER_NODE",
        "STEP_NUM_NODES",
        "NNODES",
        "JOB_NUM_NODES",
        "NODEID",
    )
    slurm = [f"SLURM_{name}" for name in (*on_nodes, "GPUS_ON_NODE", "STEP_NODELIST")]
    for name in (*names, *slurm, *cluster._VISIBLE, cluster._NAMED):
        monkeypatch.delenv(name, raising=False)
    jax.config.update("jax_platforms", None)  # On a CPU there is nothing to share.


def slurm(rank: int, count: int, local: int, **more: str) -> dict[str, str]:
    own = {"SLURM_PROCID": str(rank), "SLURM_NTASKS": str(count), "SLURM_LOCALID": str(local)}
    return NODES | own | more


def open_mpi(rank: int, count: int, local: int, here: int | None) -> dict[str, str]:
    values = {"RANK": rank, "SIZE": count, "LOCAL_RANK": local, "LOCAL_SIZE": here}
    told = {f"OMPI_COMM_WORLD_{name}": str(value) for name, value in values.items() if value is not None}
    return {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911"} | told


def passed(monkeypatch, environment: dict[str, str], count: int, index: int) -> list[int] | None:
    """The devices that JAX is told to take, and that it is not to choose itself."""
    told = {}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **named: told.update(named))
    joining._initialize("127.0.0.1:1", Meeting(index, count, {}))
    assert told["cluster_detection_method"] == "deactivate"
    return told["local_device_ids"]


ALONE = [
    slurm(1, 2, 0, SLURM_STEP_TASKS_PER_NODE="1(x2)", SLURM_NODEID="1"),
    slurm(1, 2, 0, SLURM_TASKS_PER_NODE="1(x2)"),
    slurm(1, 2, 0, SLURM_STEP_NUM_NODES="2"),
    slurm(1, 2, 0, SLURM_NNODES="2"),
    slurm(1, 2, 0),  # The list of nodes names two.
    slurm(1, 2, 0) | EIGHT,
    open_mpi(1, 2, 0, 1),
    open_mpi(1, 2, 0, 1) | EIGHT,
    {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "1"},
    {},
]


@pytest.mark.parametrize("environment", ALONE)
def test_the_only_process_on_a_host_takes_all_devices(monkeypatch, environment):
    assert passed(monkeypatch, environment, 2, 1) is None


SEVERAL = [
    (slurm(5, 8, 1, SLURM_STEP_TASKS_PER_NODE="4(x2)", SLURM_NODEID="1"), [1]),
    (slurm(5, 8, 1), [1]),
    (slurm(5, 8, 1) | {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}, [1]),
    (slurm(5, 8, 1) | EIGHT, [2, 3]),
    (slurm(5, 8, 1, SLURM_GPUS_ON_NODE="8"), [2, 3]),
    (slurm(5, 8, 1, SLURM_STEP_TASKS_PER_NODE="6,2", SLURM_NODEID="1") | EIGHT, [4, 5, 6, 7]),
    (open_mpi(5, 8, 3, 4), [3]),
    (open_mpi(5, 8, 3, None), [3]),
    (open_mpi(5, 8, 3, 4) | EIGHT, [6, 7]),
    (slurm(5, 8, 0) | open_mpi(5, 8, 3, 4), [3]),  # Slurm has started mpirun.
]


@pytest.mark.parametrize(("environment", "expected"), SEVERAL)
def test_several_processes_on_a_host_share_its_devices(monkeypatch, environment, expected):
    assert passed(monkeypatch, environment, 8, 5) == expected


OWN = [
    slurm(5, 8, 1) | {"CUDA_VISIBLE_DEVICES": "3"},
    slurm(5, 8, 1, SLURM_GPUS_PER_TASK="2") | {"CUDA_VISIBLE_DEVICES": "0,1"},
    slurm(5, 8, 1, SLURM_GPU_BIND="per_task:2") | {"CUDA_VISIBLE_DEVICES": "0,1"},
    slurm(5, 8, 1, SLURM_TRES_PER_TASK="cpu=4,gres/gpu=2") | {"CUDA_VISIBLE_DEVICES": "0,1"},
    open_mpi(5, 8, 3, 4) | {"CUDA_VISIBLE_DEVICES": "GPU-8f6d"},
    open_mpi(5, 8, 3, 4) | {"CUDA_VISIBLE_DEVICES": ""},
    open_mpi(5, 8, 3, 4) | {"CUDA_VISIBLE_DEVICES": "-1"},
    # Eight started by hand on one host, inside a job of Slurm that has one task.
    slurm(0, 1, 0) | EIGHT,
]


@pytest.mark.parametrize("environment", OWN)
def test_a_process_that_is_shown_its_own_devices_takes_all_that_it_sees(monkeypatch, environment):
    assert passed(monkeypatch, environment, 8, 5) is None


def test_a_binding_to_nothing_binds_nothing(monkeypatch):
    environment = slurm(5, 8, 1, SLURM_GPU_BIND="none", SLURM_TRES_PER_TASK="cpu:4") | EIGHT
    assert passed(monkeypatch, environment, 8, 5) == [2, 3]


def test_devices_named_by_hand_are_taken(monkeypatch):
    environment = slurm(5, 8, 1) | EIGHT | {"JAX_LOCAL_DEVICE_IDS": "6,7"}
    assert passed(monkeypatch, environment, 8, 5) == [6, 7]
    monkeypatch.setenv("JAX_LOCAL_DEVICE_IDS", "six")
    with pytest.raises(UserError, match=r"JAX_LOCAL_DEVICE_IDS: expected a whole number.*found 'six'"):
        cluster.local_devices(8, 5)


def test_devices_that_cannot_be_shared_are_told(monkeypatch):
    for name, value in (slurm(5, 6, 2) | EIGHT).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="3 processes on this host cannot share its 8 devices evenly"):
        cluster.local_devices(6, 5)
    assert cluster.local_devices(6, 5, "cpu") is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UserError, match="3 processes on this host cannot share its 2 devices"):
        cluster.local_devices(6, 5)


@pytest.mark.parametrize(
    ("nodes", "count"),
    [
        ("a", 1),
        ("a,b", 2),
        ("n[1-3]", 3),
        ("n[01-03,7],m,k[9]", 6),
        ("r[1-2]n[1-4]", 8),
        ("", 0),
        ("n[x]", 0),
    ],
)
def test_lists_of_nodes(nodes, count):
    assert cluster._length(nodes) == count


@pytest.mark.parametrize(
    ("tasks", "expected"), [("2(x3),1", [2, 2, 2, 1]), ("4", [4]), ("", []), ("4(y2)", []), ("9" * 40, [])]
)
def test_tasks_by_node(tasks, expected):
    assert cluster._unfolded(tasks) == expected
