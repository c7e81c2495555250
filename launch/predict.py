"""image or event files -> classes with probabilities, class maps, or objects, and a sheet of the pictures."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from launch.flags import DEFINED_OFTEN, POSITIONAL, define_path, define_sensor_size, require_writable
from qsdt_jax.errors import UserError
from qsdt_jax.files import expanded, place
from qsdt_jax.progress import tell

# The libraries are imported where they are used, so that --help answers at once.
if TYPE_CHECKING:
    from qsdt_jax.answers.pictures import Shown
    from qsdt_jax.answers.streams import Given
    from qsdt_jax.loading.deployed import Deployed
    from qsdt_jax.loading.trained import Trained
    from qsdt_jax.sheets.classes import ClassesShown
    from qsdt_jax.sheets.explained import ExplainedShown
    from qsdt_jax.sheets.maps import MapsShown
    from qsdt_jax.sheets.objects import ObjectsShown

LEAST_SCORE = 0.3

WORKDIR = define_path("workdir", "directory of a run or an import")
BUNDLE = define_path("bundle", "file of an exported network, in place of a workdir")
STEP = flags.DEFINE_string("step", "latest", "latest, best, or the number of a step", **DEFINED_OFTEN)
EMA = flags.DEFINE_bool("ema", False, "take the moving average of the variables", **DEFINED_OFTEN)
TOP = flags.DEFINE_integer("top", 5, "classes or objects printed for each image", **DEFINED_OFTEN)
THRESHOLD = flags.DEFINE_float(
    "threshold", None, f"score of an object that is printed and drawn (default: {LEAST_SCORE})",
    lower_bound=0, upper_bound=1, **DEFINED_OFTEN,
)  # fmt: skip
SHEET = define_path(
    "sheet",
    "PNG file of the sheet (default: predictions.png in the workdir or beside the bundle)",
)
OUT = define_path(
    "out",
    "folder of a segmenter's class maps, or of a detector's pictures and detections.json "
    "(default: predictions in the workdir or beside the bundle), or of what --explain draws (default: "
    "explained beside the sheet)",
)
EXPLAIN = flags.DEFINE_bool(
    "explain", False, "draw for each image attention received, spikes by stage, and gradients of its class",
    **DEFINED_OFTEN,
)  # fmt: skip
SENSOR_SIZE = define_sensor_size()
ON_ITS_SIDE = flags.DEFINE_bool(
    "on_its_side",
    None,
    "the camera of event files lay on its side (default: only of files called as those of CIFAR10-DVS)",
    **DEFINED_OFTEN,
)
FILES = flags.DEFINE_list(POSITIONAL, [], "FILE ...  image files, or event files", **DEFINED_OFTEN)

SHEET_NAME, OUT_FOLDER, EXPLAINED_FOLDER = "predictions", "predictions", "explained"


def main() -> None:
    """Predicts as the flags say; files that cannot be shown are named, and the others still predicted."""
    files, top = [expanded(file) for file in FILES.value], TOP.value
    if (WORKDIR.value is None) == (BUNDLE.value is None):
        both = "; got both" if WORKDIR.value else ""
        raise UserError(f"predict needs --workdir DIR or --bundle FILE{both}")
    if BUNDLE.value is not None and (STEP.value != "latest" or EMA.value):
        raise UserError("--step and --ema choose from a --workdir; a bundle holds one network")
    folder = Path(WORKDIR.value) if WORKDIR.value is not None else Path(BUNDLE.value or "").parent
    if not files:
        raise UserError("predict needs image files, or event files: predict --workdir DIR one.png two.jpg")
    if top < 1:
        raise UserError(f"--top {top} must be at least 1")
    from qsdt_jax.answers.streams import given_files
    from qsdt_jax.sheets.written import free_file

    sheet = Path(SHEET.value) if SHEET.value else free_file(folder, SHEET_NAME, set(map(place, files)))
    if sheet.suffix.lower() != ".png":
        raise UserError(f"--sheet {sheet}: expected a file name that ends in .png")
    network = _load()
    require_writable("sheet", sheet, files)
    _require_answers(network)
    given = given_files(network, SENSOR_SIZE.value, ON_ITS_SIDE.value)  # Raises before a folder is made.
    reader = _reader(network, files, sheet, Path(OUT.value or folder / OUT_FOLDER))

    left_out: list[str] = []
    count = 0
    for answer in _answers(network, given, files, left_out):
        print(f"{answer.name}: {reader.add(answer)}", flush=True)
        count += 1
    if count:
        reader.draw(sheet)
        drawn = len(reader.drawn)
        some = f" (the first {drawn} of {count} images)" if count > drawn else ""
        tell(f"sheet: {sheet}{some}")
    if left_out:
        raise UserError(f"{len(left_out)} of {len(files)} files were left out, see above")


def _load() -> "Trained | Deployed":
    """The network that the flags name."""
    if WORKDIR.value is not None:
        from qsdt_jax.loading.trained import load_trained

        return load_trained(WORKDIR.value, step=STEP.value, ema=EMA.value)
    from qsdt_jax.loading.deployed import load_deployed

    return load_deployed(BUNDLE.value or "")


def _require_answers(network: "Trained | Deployed") -> None:
    """Refuses a network whose answers cannot be shown."""
    from qsdt_jax.answers.classes import CLASSES
    from qsdt_jax.answers.maps import MAPS
    from qsdt_jax.answers.objects import OBJECTS
    from qsdt_jax.data.images import MODES
    from qsdt_jax.data.preprocess import ImagePreprocessing

    if network.classes is None:
        raise UserError(f"predict shows classes, and the outputs of {network.title} are none")
    if network.answering not in (CLASSES, MAPS, OBJECTS):
        raise UserError(
            f"predict shows classes, class maps or objects; the task of {network.title} gives none of them"
        )
    if isinstance(network.inputs, ImagePreprocessing) and network.channels not in MODES:
        raise UserError(f"image files give 1 or 3 channels, but the network takes {network.channels}")


def _reader(
    network: "Trained | Deployed", files: Sequence[str], sheet: Path, out: Path
) -> "ClassesShown | ExplainedShown | MapsShown | ObjectsShown":
    """What shows the answers of a network; raises UserError where it has no place for them."""
    from qsdt_jax.answers.maps import MAPS
    from qsdt_jax.answers.objects import OBJECTS
    from qsdt_jax.data.events.frames import EventPreprocess
    from qsdt_jax.sheets.classes import ClassesShown
    from qsdt_jax.sheets.frames import FramesShown
    from qsdt_jax.sheets.maps import MapsShown
    from qsdt_jax.sheets.objects import ObjectsShown

    classes, title = network.classes, network.title
    assert classes is not None and network.answering is not None
    if EXPLAIN.value and network.answering in (MAPS, OBJECTS):
        raise UserError(f"--explain is for classifiers; {title} is a {network.answering.network}")
    if classes.names is None:
        tell(f"the classes of {classes.where} are not known: they are shown as numbers")
    if network.answering == OBJECTS:
        least = LEAST_SCORE if THRESHOLD.value is None else THRESHOLD.value
        return ObjectsShown(title, classes.shown, TOP.value, least, out, sheet, files)
    if THRESHOLD.value is not None:
        raise UserError(f"--threshold {THRESHOLD.value:g} is for objects, which {title} does not give")
    if network.answering == MAPS:
        return MapsShown(title, classes.shown, TOP.value, out, sheet, files)
    of_events = isinstance(network.inputs, EventPreprocess)
    if EXPLAIN.value and of_events:
        raise UserError(f"--explain is for networks of images; {title} takes events")
    shown = (FramesShown if of_events else ClassesShown)(title, classes.shown, TOP.value)
    if EXPLAIN.value:
        from qsdt_jax.sheets.explained import ExplainedShown
        from qsdt_jax.verification.explained import explainer

        folder = Path(OUT.value or sheet.parent / EXPLAINED_FOLDER)
        return ExplainedShown(shown, explainer(network), folder, sheet, files)
    if OUT.value:
        raise UserError(f"--out {OUT.value} is for class maps, objects or --explain; {title} gives classes")
    return shown


def _answers(
    network: "Trained | Deployed", given: "Given", files: Sequence[str], left_out: list[str]
) -> Iterator:
    """The network's answer for each file that it can be shown; others are told and added to `left_out`."""

    def images() -> "Iterator[Shown]":
        for file in files:
            try:
                yield given.show(file)
            except UserError as error:
                tell(f"error: {' '.join(str(error).split())}")
                left_out.append(file)

    answering = network.answering
    assert answering is not None
    yield from answering.stream(given, images())
