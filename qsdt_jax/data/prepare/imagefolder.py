"""Any folder of class folders.

Either SOURCE/train/CLASS/IMAGE.jpg, where SOURCE/val/... and SOURCE/test/... may stand beside; or
SOURCE/CLASS/IMAGE.jpg, which becomes one split "train", for nothing is held out unasked. Images are JPEG,
PNG, BMP, WebP, GIF (its first picture), TIFF or PPM. Classes and their order are those of `class_folders`.
The folders of splits may have capitals.
"""

from pathlib import Path

from qsdt_jax.data.class_folders import listing, scan
from qsdt_jax.data.images import IMAGE_SUFFIXES
from qsdt_jax.data.prepare.folders import class_folders, labelled
from qsdt_jax.data.prepare.records import TEST, TRAIN, VALIDATION, DataSet
from qsdt_jax.errors import UserError
from qsdt_jax.retry import retried

SPLIT_FOLDERS = {
    "train": TRAIN,
    "val": VALIDATION,
    "valid": VALIDATION,
    "validation": VALIDATION,
    "test": TEST,
}


def read_imagefolder(source: Path) -> DataSet:
    """The images of a folder.

    Raises:
      UserError: no folder, no images, or a held-out class that the training images lack.
    """
    return read_folder(source, "images", "IMAGE.jpg", IMAGE_SUFFIXES)


def read_folder(source: Path, kind: str, example: str, suffixes: tuple[str, ...]) -> DataSet:
    """As `read_imagefolder`, of files of other suffixes; messages call them `kind` and name an example."""
    file = f"CLASS/{example}"
    expected = f"expected SOURCE/train/{file} and SOURCE/val/{file}, or SOURCE/{file}"
    if not retried(source.is_dir, source):
        raise UserError(f"{source}: {expected}; found {listing(source)}")
    entries = scan(source)
    splits = [e for e in entries if e.name.lower() in SPLIT_FOLDERS and e.is_folder]
    folders = {e.name: source / e.name for e in splits}
    found, ignored, hidden = {}, [], []
    if "train" in map(str.lower, folders):
        ignored = [e.shown for e in entries if e not in splits and not e.is_hidden]
        hidden = [e.shown for e in entries if e.is_hidden]
    else:
        folders = {"train": source}
    for name, folder in folders.items():
        split = SPLIT_FOLDERS[name.lower()]
        if split in found:
            same = (other for other in folders if SPLIT_FOLDERS[other.lower()] == split)
            raise UserError(f"{source} holds the {split} split twice: {', '.join(same)}")
        listed = class_folders(folder, kind, suffixes)
        found[split] = listed.found
        within = f"{name}/" if folder != source else ""
        ignored += [within + other for other in listed.others]
        hidden += [within + other for other in listed.hidden]
    class_names = sorted({image.class_name for image in found[TRAIN]})
    if not class_names:
        raise UserError(f"{source}: {expected}; found {listing(source)}")
    for split, images in found.items():
        unknown = sorted({image.class_name for image in images}.difference(class_names))
        if unknown:
            raise UserError(f"{source}: class {unknown[0]!r} of the {split} split has no training {kind}")
    return DataSet(
        name="imagefolder",
        description="Images from one folder per class.",
        source=source,
        class_names=class_names,
        splits={split: labelled(images, class_names) for split, images in found.items()},
        ignored=ignored,
        hidden=hidden,
    )
