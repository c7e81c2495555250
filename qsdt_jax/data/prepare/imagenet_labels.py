"""The labels of ImageNet's validation images, in whichever of the usual files is there.

LOC_val_solution.csv            Kaggle: ILSVRC2012_val_00000001,n01751748 111 108 ...
val_map.txt, val.txt            ILSVRC2012_val_00000001.JPEG n01751748
imagenet_2012_validation_synset_labels.txt
                                n01751748, a line per image in the order of their numbers
ILSVRC2012_devkit_t12.tar.gz    the development kit, packed or unpacked: numbers of classes in
                                ILSVRC2012_validation_ground_truth.txt, which meta.mat translates
"""

import io
import re
from collections.abc import Callable
from pathlib import Path

from qsdt_jax.data.class_folders import composed
from qsdt_jax.data.prepare.archives import gzip_members
from qsdt_jax.errors import UserError
from qsdt_jax.retry import retried

WNID = re.compile(r"n\d{8}")
TEXT_FILES = (
    "LOC_val_solution.csv",
    "val_map.txt",
    "val.txt",
    "imagenet_2012_validation_synset_labels.txt",
)
KIT = "ILSVRC2012_devkit_t12"
GROUND_TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"


def validation_wnids(source: Path) -> tuple[Path, dict[str, str]]:
    """The file that was read, and the WordNet number for each image name without its suffix.

    Raises:
      UserError: no such file is there, or it cannot be read.
    """
    for name in TEXT_FILES:
        if (source / name).is_file():
            return source / name, _from_text(source / name)
    packed = source / f"{KIT}.tar.gz"
    if packed.is_file():
        files = gzip_members(packed)
        return packed, _from_kit(packed, lambda name: files[f"{KIT}/data/{name}"])
    for folder in (source / KIT / "data", source / "data", source):
        if (folder / GROUND_TRUTH).is_file() and (folder / META).is_file():
            return folder / GROUND_TRUTH, _from_kit(
                folder, lambda name, folder=folder: retried((folder / name).read_bytes, folder / name)
            )
    raise UserError(
        f"{source} has no labels of the validation images; expected {KIT}.tar.gz or one of "
        + ", ".join(TEXT_FILES)
    )


def image_name(number: int) -> str:
    """The name of the n-th validation image, from 1, without its suffix."""
    return f"ILSVRC2012_val_{number:08d}"


def _from_text(file: Path) -> dict[str, str]:
    wnids = {}
    try:
        lines = retried(lambda: file.read_text(encoding="utf-8-sig"), file).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        match [field for field in re.split(r"[,\s]+", line) if field]:
            case [] | ["ImageId", *_]:
                continue
            case [wnid] if WNID.fullmatch(wnid):
                wnids[image_name(number)] = wnid
            case [name, wnid, *_] if WNID.fullmatch(wnid):
                wnids[composed(Path(name).stem)] = wnid
            case _:
                raise UserError(f"{file}, line {number}: expected NAME n01440764, found {line[:60]!r}")
    return wnids


def _from_kit(where: Path, read: Callable[[str], bytes]) -> dict[str, str]:
    from scipy.io import loadmat

    try:
        truth = [int(line) for line in read(GROUND_TRUTH).split()]
        synsets = loadmat(io.BytesIO(read(META)), squeeze_me=True)["synsets"]
        wnids = {int(s["ILSVRC2012_ID"]): str(s["WNID"]) for s in synsets}
        return {image_name(i): wnids[number] for i, number in enumerate(truth, start=1)}
    except UserError:  # The disk, and not the kit.
        raise
    except Exception as error:  # Whatever SciPy makes of damaged files.
        raise UserError(f"{where} cannot be read as the development kit of ILSVRC 2012: {error!r}") from None
