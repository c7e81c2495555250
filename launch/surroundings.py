"""Mistakes of the machine and of its environment variables: each is one line, like one of the user's."""

import errno
import io
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from qsdt_jax.cuda_plugin import allow_without_driver
from qsdt_jax.errors import UserError

OURS = ("launch", "qsdt_jax", "configs")
# The extra of pyproject.toml that brings a package.
EXTRAS = {
    "grain": "data",
    "tensorflow_datasets": "data",
    "array_record": "data",
    "importlib_resources": "data",
    "pycocotools": "data",
    "sklearn": "data",
    "matplotlib": "plots",
    "tensorboardX": "plots",
    "flatbuffers": "stablehlo",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "h5py": "nir",
    "tonic": "events",
}
# XLA ends the process that reads flags it does not know, without a chance to catch that.
READ_XLA_FLAGS = "from jaxlib import xla_client; xla_client.make_cpu_client()"
CACHE = "JAX_COMPILATION_CACHE_DIR"


def prepare_surroundings() -> None:
    """What has to be so before any library is imported.

    Raises:
      UserError: XLA_FLAGS that XLA does not know.
    """
    _open_closed_streams()
    # Names of classes and files may have letters that a terminal lacks.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    os.environ["MPLBACKEND"] = "agg"  # Pictures become files; what a notebook has set may not be here.
    # Else a cache of programs would know none with kernels again that run on several devices.
    os.environ.setdefault("JAX_REMOVE_CUSTOM_PARTITIONING_PTR_FROM_CACHE_KEY", "true")
    allow_without_driver()
    _leave_out_a_cache_that_cannot_be_written()
    _check_xla_flags()
    logging.getLogger("jax._src.xla_bridge").addFilter(_in_one_line)


def explained(error: BaseException) -> str | None:
    """The one line for an error that the machine is to blame for; None for a bug."""
    match error:
        case MemoryError():
            return f"out of memory; a smaller batch or image size needs less{_first_line(error)}"
        case ModuleNotFoundError() if error.name and error.name.split(".")[0] not in OURS:
            name = error.name.split(".")[0]
            wanted = {"sklearn": "scikit-learn"}.get(name, name)
            extra = f", or this project with its extra `{EXTRAS[name]}`" if name in EXTRAS else ""
            return f"the package {name} is not installed here: pip install {wanted}{extra}"
        case ImportError() if (error.name or "").split(".")[0] not in OURS:
            return f"a package cannot be loaded here{_first_line(error)}"
        case OSError() if "usable temporary directory" in str(error):
            return f"{error.strerror}; TMPDIR names one"
        case OSError() if error.errno is not None:
            where = f"{error.filename}: " if error.filename else ""
            return f"{where}{os.strerror(error.errno)}"
    if "RESOURCE_EXHAUSTED" in str(error):
        return f"out of memory on the device; a smaller batch or image size needs less{_first_line(error)}"
    return _of_jax(error)


def is_closed_pipe(error: BaseException) -> bool:
    """Whether the reader of the output has gone, like `head` when it has seen enough."""
    return isinstance(error, OSError) and error.errno == errno.EPIPE


def _of_jax(error: BaseException) -> str | None:
    """That JAX cannot be loaded or finds no device, if that is so."""
    try:
        import jax  # noqa: F401
    except Exception:
        return f"JAX cannot be loaded{_first_line(error)}; is an environment variable JAX_... wrong?"
    from qsdt_jax.devices import require_devices

    try:
        require_devices()
    except UserError as found:
        return str(found)
    return None


def _first_line(error: BaseException) -> str:
    """The first line that an error says of itself."""
    lines = str(error).strip().splitlines()
    return f" ({lines[0][:200]})" if lines else ""


def _open_closed_streams() -> None:
    """A service may start a process without its streams: files would then be opened under their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)  # Takes the lowest number, which is that of the stream.
            setattr(sys, name, os.fdopen(nowhere, mode))


def _check_xla_flags() -> None:
    if not os.environ.get("XLA_FLAGS", "").strip():
        return
    done = subprocess.run([sys.executable, "-c", READ_XLA_FLAGS], capture_output=True, text=True)
    refused = [line for line in done.stderr.splitlines() if "XLA_FLAGS" in line]
    if done.returncode and refused:
        raise UserError(
            f"XLA_FLAGS={os.environ['XLA_FLAGS']}: {refused[-1].partition('] ')[2] or refused[-1]}"
        )


def _leave_out_a_cache_that_cannot_be_written() -> None:
    """A cache saves time; without one JAX would tell of each program that it cannot be kept."""
    folder = os.environ.get(CACHE, "")
    if not folder or "://" in folder:
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        del os.environ[CACHE]
        told = f"{CACHE}={folder} cannot be written ({error.strerror}); programs are not kept"
        print(f"warning: {told}", file=sys.stderr)


def _in_one_line(record: logging.LogRecord) -> bool:
    """Cuts the traceback that JAX logs of a plug-in that cannot start, as one without its driver."""
    if record.exc_info and record.exc_info[1] is not None:
        kind, told = type(record.exc_info[1]).__name__, _first_line(record.exc_info[1])
        record.msg, record.args = f"{str(record.msg).partition(':')[0]}: {kind}{told}", ()
        record.exc_info = record.exc_text = None
    return True
