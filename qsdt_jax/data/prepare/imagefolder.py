"""Any folder of class folders.

Either SOURCE/train/CLASS/IMAGE.jpg, where SOURCE/val/... and SOURCE/test/... may stand beside; or
SOURCE/CLASS/IMAGE.jpg, which becomes one split "train", for nothing is held out unasked. Images are JPEG,
PNG, BMP, WebP, GIF (its first picture) or TIFF. Classes are numbered in the sorted order of their names.
"""

from pathlib import Path

from qsdt_jax.data.prepare.folders import class_folders, labelled, listing
from qsdt_jax.data.prepare.records import TEST, TRAIN, VALIDATION, DataSet
from qsdt_jax.errors import UserError

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
    expected = (
        "expected SOURCE/train/CLASS/IMAGE.jpg and SOURCE/val/CLASS/IMAGE.jpg, or SOURCE/CLASS/IMAGE.jpg"
    )
    folders = {name: source / name for name in SPLIT_FOLDERS if (source / name).is_dir()}
    if "train" not in folders:
        folders = {"train": source}
    found, ignored = {}, []
    for name, folder in folders.items():
        if not folder.is_dir():
            raise UserError(f"{source}: {expected}; found {listing(source)}")
        split = SPLIT_FOLDERS[name]
        if split in found:
            raise UserError(f"{source} holds the {split} split twice: {', '.join(folders)}")
        found[split], others = class_folders(folder)
        ignored += [f"{name}/{other}" if folder != source else other for other in others]
    class_names = sorted({image.class_name for image in found[TRAIN]})
    if not class_names:
        raise UserError(f"{source}: {expected}; found {listing(source)}")
    for split, images in found.items():
        unknown = sorted({image.class_name for image in images}.difference(class_names))
        if unknown:
            raise UserError(f"{source}: class {unknown[0]!r} of the {split} split has no training images")
    return DataSet(
        name="imagefolder",
        description="Images from one folder per class.",
        source=source,
        class_names=class_names,
        splits={split: labelled(images, class_names) for split, images in found.items()},
        ignored=ignored,
    )
