"""a published PyTorch checkpoint -> a workdir, to evaluate, to predict with, or to train on from."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from launch.flags import DEFINED_OFTEN, define_config, define_path
from qsdt_jax.errors import UserError
from qsdt_jax.files import expanded

# The libraries are imported where they are used, so that --help answers at once.
if TYPE_CHECKING:
    from ml_collections import ConfigDict

CONFIG = define_config()
WORKDIR = define_path("workdir", "new directory for the import")
CHECKPOINT = define_path("checkpoint", "PyTorch file (.pth)")
CLASS_NAMES = define_path(
    "class_names",
    "text file with one class name a line, in the order of the outputs and as the data call them (ImageNet's "
    "folders: WordNet ids, not words); without it, those of the data",
)
EMA = flags.DEFINE_bool(
    "ema", False, "take the moving average of the weights that a file may hold", **DEFINED_OFTEN
)


def main() -> None:
    """Imports as the flags say."""
    if CONFIG.value is None or not CHECKPOINT.value or not WORKDIR.value:
        raise UserError("import-torch needs --checkpoint FILE.pth, --config FILE and --workdir DIR")
    names = read_names(CLASS_NAMES.value) if CLASS_NAMES.value else None
    parameters = import_torch(CONFIG.value, CHECKPOINT.value, WORKDIR.value, class_names=names, ema=EMA.value)
    print(f"{WORKDIR.value}: step 0 with {parameters:,} parameters of {CHECKPOINT.value}")


def import_torch(
    config: "ConfigDict",
    checkpoint: str | Path,
    workdir: str | Path,
    *,
    class_names: tuple[str, ...] | None = None,
    ema: bool = False,
) -> int:
    """Writes a published checkpoint to a new workdir, as step 0 of a run of `config`.

    Args:
      config: of the network and of the training that may follow.
      checkpoint: the `.pth` file.
      workdir: without checkpoints so far.
      class_names: one for each output; else the data's, or numbers where the images are not here.
      ema: take the moving average of the weights.

    Returns:
      Number of parameters.

    Raises:
      UserError: the file cannot be read or does not fit the configuration; class names too many or too few,
        or those of the data not in the order of their numbers; a workdir in use or with checkpoints.
    """
    import optax

    from qsdt_jax.assemble.build import build_optimizer, plain
    from qsdt_jax.assemble.tasks import build_task
    from qsdt_jax.data.classes import Classes, numbers, require_same_classes
    from qsdt_jax.interop import from_torch
    from qsdt_jax.interop.architecture import class_count
    from qsdt_jax.interop.published import differences
    from qsdt_jax.interop.torch_file import load
    from qsdt_jax.loading.trained import use_float64_if_asked
    from qsdt_jax.train.state import create_state, parameter_count
    from qsdt_jax.workdir.checkpoint import Checkpointer
    from qsdt_jax.workdir.workdir import CHECKPOINT_FOLDER, Belongings, Workdir

    use_float64_if_asked(config)
    tensors = load(checkpoint, ema=ema)
    outputs = class_count(str(checkpoint), tensors)
    if class_names and len(class_names) != outputs:
        raise UserError(f"{checkpoint} has {outputs} classes, but {len(class_names)} names are given")
    names = class_names or _names_of_data(config)
    if names and not class_names:
        unnamed = Classes(where=str(checkpoint), outputs=outputs, names=None)
        require_same_classes(names, unnamed, what="the data")
    task = build_task(config, names or numbers(outputs))
    variables = from_torch(task.model, tensors, label=str(checkpoint))
    for line in differences(task.model):
        print(line)
    # The schedule leaves no trace in the state, so any will do.
    optimizer = build_optimizer(config, optax.constant_schedule(0.0))
    state = create_state(variables, optimizer, ema=config.ema_decay > 0)
    run = Belongings(config=plain(config), class_names=names, training_images=None)
    checkpoints = Path(workdir) / CHECKPOINT_FOLDER
    _require_new(checkpoints)
    with Workdir(workdir) as directory:
        _require_new(checkpoints)  # Again under the lock.
        with Checkpointer(checkpoints) as checkpointer:
            checkpointer.require_room(0, state)
            directory.claim(run)
            checkpointer.save(0, state, wait=True)
    return parameter_count(variables)


def _require_new(checkpoints: Path) -> None:
    from qsdt_jax.workdir.stored import stored_steps

    if checkpoints.parent.is_dir() and (stored := stored_steps(checkpoints)):
        raise UserError(
            f"workdir {checkpoints.parent} holds checkpoints of steps {stored}; expected a new directory"
        )


def _names_of_data(config: "ConfigDict") -> tuple[str, ...] | None:
    """The classes of the images, or None where they are not here; the test images alone will do."""
    from qsdt_jax.assemble.data import build_source, class_names_of

    data = config.data
    if data.source in ("folder", "tfds", "ade20k", "segfolder", "coco") and not (
        data.path and Path(expanded(data.path)).is_dir()
    ):
        return None
    try:
        return class_names_of(build_source(config, "train"))
    except UserError as error:
        with contextlib.suppress(UserError):
            return class_names_of(build_source(config, "test"))
        raise error


def read_names(file: str) -> tuple[str, ...]:
    """The lines of a text file; raises UserError where one is empty or the file cannot be read."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"--class_names {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"--class_names {file} is not a text file in UTF-8") from None
    names = tuple(line.strip() for line in lines)
    while names and not names[-1]:
        names = names[:-1]
    if not names or not all(names):
        raise UserError(f"--class_names {file}: expected one name a line, found an empty line or nothing")
    return names
