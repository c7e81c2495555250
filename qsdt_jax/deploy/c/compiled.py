"""The C form of a network, compiled and called: for comparisons, not for speed."""

import ctypes
import itertools
import math
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qsdt_jax.deploy.agreement import Form
from qsdt_jax.deploy.c.export import CODE, HEADER, Source
from qsdt_jax.deploy.program import LOGITS
from qsdt_jax.errors import UserError

STRICT = ("-std=c99", "-O2", "-Wall", "-Werror", "-pedantic", "-ffp-contract=off")
# Keeps the counts of all neurons, one layer after the other.
TRACED = f"""\
#include <string.h>
unsigned char *qsdt_traced;
#define QSDT_SPIKES(counts, number) (memcpy(qsdt_traced, counts, number), (void)(qsdt_traced += number))
#include "{CODE}"
"""


def compiler() -> str | None:
    """The C compiler of this machine, or None."""
    return shutil.which("gcc") or shutil.which("cc")


def compiled(source: Source, options: Sequence[str] = STRICT) -> ctypes.CDLL:
    """The network as a library, which also tells its counts.

    Raises:
      UserError: there is no compiler, or it refuses the file.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in ((CODE, source.code), (HEADER, source.header), ("traced.c", TRACED)):
            (folder / file).write_text(content, encoding="utf-8")
        library = folder / "model.so"
        run_compiler(*options, "-shared", "-fPIC", folder / "traced.c", "-o", library)
        return ctypes.CDLL(str(library))  # It stays once its file is gone.


def run_compiler(*arguments: str | Path) -> None:
    """Raises UserError where there is no compiler, or with its first complaint."""
    if (command := compiler()) is None:
        raise UserError("there is no C compiler here; expected gcc or cc")
    run = subprocess.run([command, *map(str, arguments)], capture_output=True, text=True, check=False)
    if run.returncode:
        told = next((line for line in run.stderr.splitlines() if "error" in line), run.stderr.strip())
        raise UserError(f"{command} refuses the C form: {told}")


def c_form(source: Source, library: ctypes.CDLL) -> Form:
    """The form of `agreement` of a compiled network, image by image."""
    ends = list(itertools.accumulate(map(math.prod, source.counts.values()), initial=0))
    pointer = ctypes.c_void_p.in_dll(library, "qsdt_traced")

    def forward(images):
        images = np.asarray(images, np.float32)
        if images.ndim == 4:
            images = np.repeat(images[:, None], source.images[0], axis=1)
        if images.shape[1:] != source.images:
            raise ValueError(f"images {images.shape[1:]}; the C form takes {source.images}")
        images = np.ascontiguousarray(images)
        logits = np.empty((len(images), source.classes), np.float32)
        counts = np.empty((len(images), ends[-1]), np.uint8)
        for image, scores, of_image in zip(images, logits, counts, strict=True):
            pointer.value = of_image.ctypes.data
            library.qsdt_forward_real(as_argument(image), as_argument(scores))
        spans = zip(source.counts.items(), itertools.pairwise(ends), strict=True)
        return {LOGITS: logits}, {
            name: counts[:, start:end].reshape(-1, *shape[1:]) for (name, shape), (start, end) in spans
        }

    return forward


def as_argument(array: np.ndarray) -> ctypes.c_void_p:
    """The memory of an array whose elements lie next to each other."""
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)
