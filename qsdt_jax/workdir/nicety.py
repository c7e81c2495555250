"""What a run can do without: pictures, TensorBoard, traces."""

import contextlib
from collections.abc import Iterator

from absl import logging

from qsdt_jax.retry import reason


@contextlib.contextmanager
def nicety(what: str) -> Iterator[None]:
    """Work that neither ends a run nor hides why it ends: an exception inside becomes one warning line."""
    try:
        yield
    except Exception as error:
        logging.warning("%s: %s; the run does without", what, reason(error))
