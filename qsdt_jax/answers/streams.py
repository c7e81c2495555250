"""Files as a network takes them: images, or recordings of an event camera as frames.

Frames are made by the code of evaluation. How large the sensor was is taken from the file or its format,
unless it is given; where nobody says it nothing is guessed, for the frames of another size hold the same
events elsewhere.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from qsdt_jax.answers.pictures import Shown, show
from qsdt_jax.data.events.cifar10dvs import is_cifar10dvs
from qsdt_jax.data.events.files import SUFFIXES, read_event_file
from qsdt_jax.data.events.frames import EventPreprocess
from qsdt_jax.data.events.record import check_sensor, check_within, upright
from qsdt_jax.data.images import IMAGE_SUFFIXES
from qsdt_jax.data.preprocess import ImagePreprocessing, Preprocessing
from qsdt_jax.errors import UserError
from qsdt_jax.progress import tell
from qsdt_jax.retry import content_of
from qsdt_jax.tasks.task import Batch


class Shower(Protocol):
    """A network of a workdir or a bundle."""

    @property
    def title(self) -> str: ...

    @property
    def channels(self) -> int: ...

    @property
    def inputs(self) -> Preprocessing: ...

    @property
    def preprocess(self) -> ImagePreprocessing: ...

    def outputs(self, batch: Batch) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Given:
    """A network with what makes inputs of files for it, an `Answerer`.

    Attributes:
      network: of images or of events.
      preprocess: of evaluation.
      show: a file as the network sees it; raises UserError for one that it cannot be shown.
    """

    network: Shower
    preprocess: Preprocessing
    show: Callable[[str], Shown]

    def outputs(self, batch: Batch) -> Any:
        """What the network gives for a batch."""
        return self.network.outputs(batch)


def given_files(network: Shower, sensor_size: tuple[int, ...] = (), on_its_side: bool | None = None) -> Given:
    """How a network is shown files.

    Args:
      network: of images or of events.
      sensor_size: (height, width) in pixels of the camera of all recordings; without it, what each one says.
      on_its_side: whether the camera lay on its side, so that its columns are the rows of the picture; None
        where that is so for files that are called as those of CIFAR10-DVS are, and for no others.

    Raises:
      UserError: a size that is none; what is of recordings given for a network of images.
    """
    given = check_sensor(sensor_size, "sensor_size") if sensor_size else None
    preprocess = network.inputs
    if isinstance(preprocess, EventPreprocess):
        streams = _Streams(network.title, preprocess, given, on_its_side)
        return Given(network, preprocess, streams.show)
    if sensor_size or on_its_side is not None:
        raise UserError(f"sensor_size and on_its_side are of event files, but {network.title} takes images")
    return Given(network, preprocess, functools.partial(_show_image, network))


def _show_image(network: Shower, file: str) -> Shown:
    """An image file; of one of events the message says so."""
    try:
        return show(file, network.preprocess, network.channels, file)
    except UserError:
        if Path(file).suffix.lower() in SUFFIXES and Path(file).is_file():
            raise UserError(f"{file}: is a file of events; expected an image for {network.title}") from None
        raise


@dataclasses.dataclass
class _Streams:
    """Event files on their way to a network; says what it does to them once."""

    title: str
    preprocess: EventPreprocess
    sensor_size: tuple[int, int] | None
    on_its_side: bool | None
    told: set[str] = dataclasses.field(default_factory=set)

    def show(self, file: str) -> Shown:
        name = Path(file).name
        if Path(file).suffix.lower() not in SUFFIXES:
            is_what = "an image" if name.lower().endswith(IMAGE_SUFFIXES) else "no file of events"
            known = ", ".join(SUFFIXES)
            raise UserError(f"{file}: is {is_what}; expected one of events ({known}) for {self.title}")
        events, said = read_event_file(content_of(file), file)
        sensor_size = self.sensor_size or said
        if said not in (None, sensor_size):  # Some programs always write the size of one camera.
            self._tell(f"files say a sensor of {_sized(said)}; {_sized(sensor_size)} was given, and holds")
        if sensor_size is None:
            raise UserError(
                f"{file}: does not say how large its sensor was; expected sensor_size=HEIGHT,WIDTH in pixels"
            )
        check_within(events, sensor_size, file)
        turned = is_cifar10dvs(name) if self.on_its_side is None else self.on_its_side
        if turned:
            events, sensor_size = upright(events), (sensor_size[1], sensor_size[0])
            if self.on_its_side is None:
                self._tell(
                    "files called as those of CIFAR10-DVS are turned upright, for its camera lay on its side"
                )
        height, width = self.preprocess.size
        if sensor_size[0] * width != sensor_size[1] * height:
            self._tell(
                f"a sensor of {_sized(sensor_size)} is shown in frames of {height}x{width}, of another shape"
            )
        example = {"events": events, "sensor_size": sensor_size}
        frames = self.preprocess.evaluate(example)["image"]
        return Shown(file, sensor_size, {"image": frames}, frames)

    def _tell(self, line: str) -> None:
        if line not in self.told:
            self.told.add(line)
            tell(line)


def _sized(size: tuple[int, int] | None) -> str:
    return "x".join(map(str, size or ()))
