"""the files of a data set as they are distributed -> a tfds directory, to train on.

  imagenet     tars of ILSVRC 2012, or class folders, or Kaggle's layout
  cifar10      cifar-10-python.tar.gz, or what is in it; cifar100 likewise
  cifar10dvs   CLASS/cifar10_CLASS_0.aedat and so on
  imagefolder  train/CLASS/IMAGE.jpg and val/CLASS/IMAGE.jpg, or CLASS/IMAGE.jpg alone
  eventfolder  the same of event files: .aedat (AEDAT 2.0 of a DVS128), .bin (N-MNIST; needs tonic)
  ade20k       images/training/NAME.jpg and annotations/training/NAME.png, likewise validation
  segfolder    images/train/NAME.jpg and masks/train/NAME.png, likewise val, and classes.txt
  coco         annotations/instances_train*.json and instances_val*.json, images in train*/ and val*/
  voc          JPEGImages/NAME.jpg, Annotations/NAME.xml, ImageSets/Main/train.txt and val.txt

Writes OUT/NAME/1.0.0, which tensorflow-datasets opens. The same command goes on with what was interrupted.

  digit-scenes needs no files: writes scenes of handwritten digits into OUT, in the layouts of ADE20K and COCO
"""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from launch.flags import DEFINED_OFTEN, POSITIONAL, define_path
from qsdt_jax import bounds
from qsdt_jax.command import COMMAND
from qsdt_jax.errors import UserError

# The libraries are imported where they are used, so that --help answers at once.
if TYPE_CHECKING:
    from qsdt_jax.data.prepare.records import DataSet
    from qsdt_jax.data.prepare.writer import Prepared

NAMES = (
    *("imagenet", "cifar10", "cifar100", "cifar10dvs"),
    *("imagefolder", "eventfolder", "ade20k", "segfolder", "coco", "voc"),
)
SCENES = "digit-scenes"
TRANSFERRED = ("cifar10", "cifar100", "cifar10dvs")  # Their configs begin with an ImageNet run.
OF_SIZE_S = {"imagenet": "imagenet_s", "ade20k": "ade20k_s", "coco": "coco_s"}
CONFIGS = Path(__file__).parents[1] / "configs"
MOST_SCENES = 100_000
KINDS = {
    "image": "images",
    "events": "event files",
    "segmentation": "pairs of an image and an annotation",
    "detection": "images with objects",
}
SHOWN = 10  # Files and classes that are named; preparation.json has all.

NAME = flags.DEFINE_list(POSITIONAL, [], f"NAME  one of {', '.join((*NAMES, SCENES))}", **DEFINED_OFTEN)
SOURCE = define_path("source", "folder of the files, or their archive")
OUT = define_path("out", f"tfds data directory; others may be in it. Of {SCENES}: a folder of their own")
SHARDS = flags.DEFINE_integer(
    "shards", None, "files of the training split; without it, of 256 MB each", lower_bound=1,
    upper_bound=bounds.PROCESSES, **DEFINED_OFTEN,
)  # fmt: skip
SENSOR_SIZE = flags.DEFINE_list(
    "sensor_size", [], "HEIGHT,WIDTH in pixels of the sensor of an eventfolder", **DEFINED_OFTEN
)
ALLOW_PARTIAL = flags.DEFINE_bool(
    "allow_partial", False, "take another number of classes or records than the whole has", **DEFINED_OFTEN
)
REDUCE_ZERO_LABEL = flags.DEFINE_bool(
    "reduce_zero_label",
    False,
    "number 0 in the masks of a segfolder is ignored, and number k is class k - 1",
    **DEFINED_OFTEN,
)
TRAIN = flags.DEFINE_integer(
    "train", None, f"scenes of {SCENES} to train on; without it, 3000", lower_bound=1,
    upper_bound=MOST_SCENES, **DEFINED_OFTEN,
)  # fmt: skip
TEST = flags.DEFINE_integer(
    "test", None, f"scenes of {SCENES} to evaluate on; without it, 200", lower_bound=1,
    upper_bound=MOST_SCENES, **DEFINED_OFTEN,
)  # fmt: skip
SEED = flags.DEFINE_integer(
    "seed", None, f"of {SCENES}; without it, 0", lower_bound=0, upper_bound=2**31 - 1, **DEFINED_OFTEN
)


def main() -> None:
    """Prepares as the flags say."""
    if SCENES in NAME.value:
        _write_scenes()
        return
    if any(flag.value is not None for flag in (TRAIN, TEST, SEED)):
        raise UserError(f"--train, --test and --seed are of {SCENES} alone")
    from qsdt_jax.data.class_folders import left_out
    from qsdt_jax.data.prepare.writer import prepare

    if len(NAME.value) != 1 or SOURCE.value is None or OUT.value is None:
        names = ", ".join((*NAMES, SCENES))
        raise UserError(f"prepare needs a name (one of {names}), --source DIR and --out DIR")
    source, out = Path(SOURCE.value), Path(OUT.value)
    if out.resolve().is_relative_to(source.resolve()):  # It would be found among the classes the next time.
        raise UserError(f"--out {out} lies in --source {source}; expected a place outside of it")
    try:
        print(f"looking through {source}", file=sys.stderr, flush=True)
        dataset = find(
            NAME.value[0],
            source,
            allow_partial=ALLOW_PARTIAL.value,
            sensor_size=_sensor_size(),
            reduce_zero_label=_reduce_zero_label(),
        )
        kind = KINDS[dataset.kind]
        if line := left_out(source, kind, dataset.ignored, dataset.hidden):
            print(line, file=sys.stderr)
        for line in dataset.told:
            print(line, file=sys.stderr)
        prepared = prepare(dataset, out, shards=SHARDS.value)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command goes on with what is left") from None
    print(summary(dataset, prepared))


def _write_scenes() -> None:
    from qsdt_jax.data.prepare.scene_files import write_scenes

    if NAME.value != [SCENES] or OUT.value is None or SOURCE.value is not None:
        raise UserError(f"prepare {SCENES} needs --out DIR, and no --source: it makes what it writes")
    if SHARDS.value is not None or SENSOR_SIZE.value or ALLOW_PARTIAL.value or REDUCE_ZERO_LABEL.value:
        raise UserError(f"of {SCENES} are --out, --train, --test and --seed alone")
    out = Path(OUT.value)
    train, test, seed = TRAIN.value or 3000, TEST.value or 200, SEED.value or 0
    try:
        report = write_scenes(out, train=train, test=test, seed=seed)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command begins again") from None
    numbers = ", ".join(
        f"{split} {scenes:,} scenes with {report['digits'][split]:,} digits"
        for split, scenes in report["scenes"].items()
    )
    print(f"written   {out}\nsplits    {numbers}")
    print(f"train     {_command('digit_scenes_seg', 'ade20k', out)}")
    print(f"or        {_command('digit_scenes_det', 'coco', out)}")


def find(
    name: str,
    source: Path,
    *,
    allow_partial: bool = False,
    sensor_size: tuple[int, ...] = (),
    reduce_zero_label: bool = False,
) -> "DataSet":
    """The records of a data set, checked.

    Args:
      name: one of `NAMES`.
      source: where the files are.
      allow_partial: accept other numbers of classes and records than the whole has.
      sensor_size: (height, width) of the sensor of an eventfolder.
      reduce_zero_label: of a segfolder; number 0 of its masks is ignored, and number k is class k - 1.

    Raises:
      UserError: an unknown name, files that are missing or laid out in another way, wrong numbers.
    """
    from qsdt_jax.data.prepare.cifar import CIFAR10, CIFAR100, read_cifar
    from qsdt_jax.data.prepare.cifar10dvs import read_cifar10dvs
    from qsdt_jax.data.prepare.detection import read_coco_folder
    from qsdt_jax.data.prepare.eventfolder import read_eventfolder
    from qsdt_jax.data.prepare.imagefolder import read_imagefolder
    from qsdt_jax.data.prepare.imagenet import read_imagenet
    from qsdt_jax.data.prepare.records import check
    from qsdt_jax.data.prepare.segmentation import read_ade20k, read_segfolder
    from qsdt_jax.data.prepare.voc import read_voc

    if not source.exists():
        raise UserError(f"--source {source}: no such folder")
    match name:
        case "imagenet":
            dataset = read_imagenet(source, allow_partial=allow_partial)
        case "cifar10":
            dataset = read_cifar(source, CIFAR10)
        case "cifar100":
            dataset = read_cifar(source, CIFAR100)
        case "cifar10dvs":
            dataset = read_cifar10dvs(source)
        case "imagefolder":
            dataset = read_imagefolder(source)
        case "eventfolder":
            dataset = read_eventfolder(source, sensor_size)
        case "ade20k":
            dataset = read_ade20k(source)
        case "segfolder":
            dataset = read_segfolder(source, reduce_zero_label=reduce_zero_label)
        case "coco":
            dataset = read_coco_folder(source)
        case "voc":
            dataset = read_voc(source)
        case _:
            raise UserError(f"unknown data set {name!r}; expected one of {', '.join(NAMES)}")
    check(dataset, allow_partial=allow_partial)
    return dataset


def summary(dataset: "DataSet", prepared: "Prepared") -> str:
    """What was written, and how to go on."""
    from qsdt_jax.data.prepare.writer import REPORT_FILE

    directory, version = prepared.directory, prepared.directory.name
    classes, left_out = prepared.class_names, sum(map(len, prepared.left_out.values()))
    more = f" and {len(classes) - SHOWN} more" if len(classes) > SHOWN else ""
    size = sum(file.stat().st_size for file in directory.iterdir() if file.is_file())
    splits = ", ".join(
        f"{split} {records:,} records in {prepared.shards[split]} shards"
        for split, records in prepared.records.items()
    )
    rows = {
        "written": str(directory),
        "splits": splits,
        "classes": f"{len(classes)}: {', '.join(classes[:SHOWN])}{more}",
        "left out": f"{left_out} records that cannot be read"
        + (f", named in {directory / REPORT_FILE}" if left_out else ""),
        "size": f"{size / 1e6:,.1f} MB",
        "read by": f"tfds.data_source('{dataset.name}:{version}', data_dir='{directory.parents[1]}')",
        "train": _training_command(dataset.name, prepared),
    }
    return "\n".join(f"{name:10}{text}" for name, text in rows.items())


def _sensor_size() -> tuple[int, ...]:
    text = SENSOR_SIZE.value
    if text and NAME.value != ["eventfolder"]:
        raise UserError("--sensor_size is of an eventfolder alone")
    if not all(part.strip().isdecimal() for part in text):
        raise UserError(f"--sensor_size={','.join(text)}: expected HEIGHT,WIDTH in pixels")
    if any(len(part) > 5 or int(part) > bounds.SIDE for part in text):
        raise UserError(f"--sensor_size={','.join(text)[:80]}: expected at most {bounds.SIDE} pixels a side")
    return tuple(map(int, text))


def _reduce_zero_label() -> bool:
    if REDUCE_ZERO_LABEL.value and NAME.value != ["segfolder"]:
        raise UserError("--reduce_zero_label is of a segfolder alone")
    return REDUCE_ZERO_LABEL.value


def _training_command(name: str, prepared: "Prepared") -> str:
    if len(prepared.records) < 2:
        return "nothing is held out for evaluation; give the source a folder val beside train"
    command = _command(OF_SIZE_S.get(name, name), "tfds", prepared.directory)
    return f"{command} --config.start_from=runs/imagenet_s" if name in TRANSFERRED else command


def _command(config: str, source: str, path: Path) -> str:
    file = f"configs/{config}.py" if (CONFIGS / f"{config}.py").is_file() else "CONFIG.py"
    keys = f"--config.data.source={source} --config.data.path={shlex.quote(str(path))}"
    return f"{COMMAND} --config {file} --workdir runs/{config} {keys}"
