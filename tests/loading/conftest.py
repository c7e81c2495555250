"""A network of drawn weights in a workdir, opened and saved; nothing of it is changed."""

from pathlib import Path

import numpy as np
import pytest

import qsdt_jax
from qsdt_jax.data.sources import DigitsSource
from tests.launch.tiny import draw_variables, make_state, tiny_config, write_workdir

CONFIG = tiny_config(**{"data.path": "", "start_from": ""})


@pytest.fixture(scope="session")
def workdir(tmp_path_factory) -> Path:
    variables, ema = draw_variables(CONFIG, 1), draw_variables(CONFIG, 2)
    state = make_state(CONFIG, variables, ema)
    return write_workdir(tmp_path_factory.mktemp("run"), CONFIG, {0: state, 3: state})


@pytest.fixture(scope="session")
def network(workdir):
    return qsdt_jax.load(workdir)


@pytest.fixture(scope="session")
def images() -> list[np.ndarray]:
    return [np.asarray(DigitsSource("test")[i]["image"]) for i in range(3)]


@pytest.fixture(scope="session")
def saved(network, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "saved"
    qsdt_jax.save(network, folder)
    return folder
