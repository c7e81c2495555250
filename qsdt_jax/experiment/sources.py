"""The networks that a run takes from elsewhere, a teacher and a starting point, and that they stay the same.

A run notes the step and the checksum of each in its workdir. When it goes on, that checkpoint is what it asks
for, wherever it lies by then.
"""

import contextlib
import functools
import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_collections

from qsdt_jax.assemble.shapes import image_size
from qsdt_jax.configuration.keys import value_of
from qsdt_jax.data.classes import class_difference, tell_trust
from qsdt_jax.errors import UserError
from qsdt_jax.files import expanded
from qsdt_jax.interop.published import differences
from qsdt_jax.loading.opened import Network
from qsdt_jax.loading.published import of_published
from qsdt_jax.loading.trained import Trained, load_trained, stored_checksum
from qsdt_jax.models.backbone import STRIDE
from qsdt_jax.models.parts import parts_of
from qsdt_jax.progress import tell
from qsdt_jax.tasks.task import Task, Variables, variable_shapes
from qsdt_jax.train.transfer import transfer
from qsdt_jax.workdir.stored import stored_steps
from qsdt_jax.workdir.workdir import CHECKPOINT_FOLDER, TRAINING, Source, read_belongings

START = "start_from"
READ_AT_ONCE = 2**24  # Bytes.


def noted_sources(workdir: str | Path) -> Mapping[str, Source] | None:
    """The sources of the run in a workdir; None where none has begun there.

    Raises:
      UserError: a run has begun, but what it belongs to is missing or damaged.
    """
    workdir = Path(workdir)
    begun = workdir.is_dir() and stored_steps(workdir / CHECKPOINT_FOLDER)
    return read_belongings(workdir).sources if begun else None


def load_source(config: ml_collections.ConfigDict, key: str, known: Source | None) -> tuple[Trained, Source]:
    """The network of the workdir that a key of the configuration names.

    Args:
      config, key: where the workdir is named.
      known: the checkpoint that it has to be; None for the newest.

    Raises:
      UserError: it cannot be read, or is another than the known one.
    """
    place = value_of(config, key)
    if known is not None and known.step is None:
        raise UserError(_other(key, place, known))
    step = "latest" if known is None else str(known.step)
    try:
        trained = load_trained(expanded(place), step=step)
    except UserError as error:
        needed = "" if known is None else f", of which this run needs step {known.step}"
        raise UserError(f"config.{key}={place}{needed}: {error}") from None
    source = Source(place=place, step=trained.step, checksum=trained.checksum)
    if known is not None and not known.is_same(source):
        raise UserError(_other(key, place, known))
    return trained, source


def file_source(config: ml_collections.ConfigDict, key: str, file: Path, known: Source | None) -> Source:
    """The file that a key of the configuration names.

    Raises:
      UserError: it cannot be read, or is another than the known one.
    """
    place, checksum = value_of(config, key), 0
    try:
        with file.open("rb") as stream:
            while part := stream.read(READ_AT_ONCE):
                checksum = zlib.crc32(part, checksum)
    except OSError as error:
        raise UserError(f"config.{key}={place} cannot be read: {error.strerror}") from None
    source = Source(place=place, step=None, checksum=checksum)
    if known is not None and not known.is_same(source):
        raise UserError(_other(key, place, known))
    return source


def load_start(config: ml_collections.ConfigDict, known: Source | None) -> tuple[Trained | Network, Source]:
    """The network that `config.start_from` names, in a workdir or in a published file (.pth).

    Args:
      config: of the run that starts from it.
      known: the checkpoint or file that it has to be; None for any, of a workdir the newest.

    Raises:
      UserError: it cannot be read, or is another than the known one.
    """
    file = Path(expanded(config.start_from))
    if not file.is_file():
        return load_source(config, START, known)
    source = file_source(config, START, file, known)
    try:
        return of_published(file, run=config), source
    except UserError as error:
        raise UserError(f"config.{START}={config.start_from}: {error}") from None


def sources_now(config: ml_collections.ConfigDict, noted: Mapping[str, Source]) -> dict[str, Source]:
    """What lies by now where a configuration says that the noted sources of a run do.

    A source that is not there any more is as it was where its place is.
    """
    found = {}
    for key, known in noted.items():
        place = value_of(config, key)
        if place == known.place:
            found[key] = known
        if known.step is not None and place:
            with contextlib.suppress(UserError):  # By its record alone.
                checksum = stored_checksum(expanded(place), known.step)
                found[key] = Source(place=place, step=known.step, checksum=checksum)
        elif place != known.place and (file := place.partition(":")[2] or place):
            with contextlib.suppress(UserError):
                found[key] = file_source(config, key, Path(expanded(file)), None)
    return found


def starting_point(
    config: ml_collections.ConfigDict,
    task: Task,
    noted: Mapping[str, Source] | None,
) -> tuple[Callable[[Variables], Variables] | None, Source | None]:
    """What makes a new run start from what `config.start_from` names, and the checkpoint or file that is.

    The head is taken where the task and the classes are the same, by their names or, where the checkpoint
    came without, by their number. A run that goes on needs the checkpoint no more: it is looked for only
    where it is said to have moved.

    Args:
      config, task: of the run.
      noted: its sources so far, None for a new one.

    Returns:
      The function of freshly drawn variables and the checkpoint; None for what there is not.

    Raises:
      UserError: there is no checkpoint, or it does not fit.
    """
    place = config.start_from
    if not place:
        return None, None
    if noted is not None:
        known = noted.get(START)
        if known is not None and place != known.place:
            _, known = load_start(config, known)
        return _vanished, known
    trained, source = load_start(config, None)
    difference = _other_outputs(config, task, trained)
    others = difference is not None
    # Now, with shapes in place of variables: later a refusal would come when the workdir is another already.
    move = functools.partial(
        transfer,
        source_parts=parts_of(trained.task.model),
        target_parts=parts_of(task.model),
        new_head=others,
    )
    move(trained.variables, variable_shapes(task))

    def start(variables: Variables) -> Variables:
        again, _ = load_start(config, source)  # Not held all the while, being as large as the run's.
        taken, remarks = move(again.variables, variables)
        why = [told for told in (difference, other_tokens(config, again)) if told]
        if isinstance(again, Network) and again.config.task.name == config.task.name:
            why += differences(task.model)
        where = again.where if isinstance(again, Network) else f"step {again.step} of {again.workdir}"
        lines = [f"starting from {where}", *why, *remarks]
        tell("\n  ".join(lines))
        return taken

    return start, source


def other_tokens(config: ml_collections.ConfigDict, trained: Trained | Network) -> str | None:
    """What is told where the attention of the weights is meant for other images; None where it is not."""
    here, model = config.model.attention_tokens, trained.config.model
    there = model.attention_tokens or math.prod(side // STRIDE for side in image_size(trained.config))
    if here in (0, there):
        return None
    return (
        f"config.model.attention_tokens={here}, but the attention of {config.start_from} is meant for images "
        f"of {there} tokens"
    )


def _other_outputs(config: ml_collections.ConfigDict, task: Task, trained: Trained | Network) -> str | None:
    """Why the outputs of a network mean something else than those of a task; None where they do not."""
    before, now = trained.config.task.name, config.task.name
    if before != now:
        return f"the network in {config.start_from} was trained for another task: {before!r}, this is {now!r}"
    if task.class_names is None or trained.classes is None:
        return None
    difference = class_difference(task.class_names, trained.classes, what=TRAINING)
    if difference is None:
        tell_trust(task.class_names, trained.classes, what=TRAINING)
    return difference


def _vanished(variables: Variables) -> Variables:
    raise UserError("the checkpoints of this run have vanished while it began; give the command again")


def _other(key: str, place: str, known: Source) -> str:
    step = "" if known.step is None else f" of step {known.step}"
    return (
        f"config.{key}={place} is another network than the one that this run has taken so far: "
        f"the checkpoint{step} in {known.place}, with checksum {known.checksum}; put that back"
    )
