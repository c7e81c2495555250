"""ImageNet-1K (ILSVRC 2012) as it is distributed, unpacked, or laid out by Kaggle.

Training images: `train/n01440764/NAME.JPEG`, or `ILSVRC2012_img_train.tar`, a tar of one tar per class.
Validation images: `val/n01440764/NAME.JPEG`; or `val/NAME.JPEG` or `ILSVRC2012_img_val.tar` with one of the
files of `imagenet_labels` beside. Kaggle's `ILSVRC/Data/CLS-LOC/` is looked into. Tars are read in place.

Classes are the WordNet numbers (n01440764 ...) in sorted order: the order of PyTorch, of timm, and of the
labels.txt of tensorflow-datasets.
"""

from pathlib import Path

from qsdt_jax.data.class_folders import composed, files_in, listing, visible
from qsdt_jax.data.prepare.archives import members, nested_members
from qsdt_jax.data.prepare.folders import Found, Listed, class_folders, labelled, parts
from qsdt_jax.data.prepare.imagenet_labels import WNID, validation_wnids
from qsdt_jax.data.prepare.records import CLASSES, TRAIN, VALIDATION, DataSet, FilePart
from qsdt_jax.errors import UserError

TRAIN_TAR, VALIDATION_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
EXPECTED = {CLASSES: 1000, TRAIN: 1_281_167, VALIDATION: 50_000}


def read_imagenet(source: Path, *, allow_partial: bool = False) -> DataSet:
    """The images of ImageNet-1K below `source`.

    Args:
      source: folder of the layouts above.
      allow_partial: the validation images may be missing; those of classes without training images are
        ignored.

    Raises:
      UserError: no such layout, a damaged archive, a class that is no WordNet number, a validation image
        without a label.
    """
    kaggle = source / "ILSVRC" / "Data" / "CLS-LOC"
    images = kaggle if kaggle.is_dir() else source
    train, ignored, hidden = _training_images(images)
    class_names = sorted({image.class_name for image in train})
    wrong = [name for name in class_names if not WNID.fullmatch(name)]
    if wrong:
        raise UserError(f"{images}: class {wrong[0]!r} is no WordNet number such as n01440764")
    splits = {TRAIN: train}
    if not allow_partial or _has_validation_images(images):
        validation, others, unseen = _validation_images(images, source)
        ignored += others
        hidden += unseen
        known = set(class_names)
        unknown = [image for image in validation if image.class_name not in known]
        if unknown and not allow_partial:
            raise UserError(
                f"{images}: class {unknown[0].class_name} of {unknown[0].name} has no training images"
            )
        ignored += [image.name for image in unknown]
        splits[VALIDATION] = [image for image in validation if image.class_name in known]
    return DataSet(
        name="imagenet",
        description="ImageNet-1K (ILSVRC 2012), the images as they are distributed.",
        source=source,
        class_names=class_names,
        splits={split: labelled(found, class_names) for split, found in splits.items()},
        expected=EXPECTED,
        ignored=ignored,
        hidden=hidden,
    )


def _training_images(images: Path) -> Listed:
    folder, tar = images / "train", images / TRAIN_TAR
    if folder.is_dir():
        listed = class_folders(folder)
        if not listed.found:
            raise UserError(f"{folder}: expected n01440764/NAME.JPEG; found {listing(folder)}")
        return listed
    if tar.is_file():
        # The tar n01440764.tar holds n01440764_10026.JPEG.
        content, hidden = nested_members(tar)
        inner = ((Path(name).stem, image, part) for name, image, part in content)
        return Listed([Found(wnid, f"{wnid}/{image}", part) for wnid, image, part in inner], [], hidden)
    raise UserError(f"{images}: expected {TRAIN_TAR} or train/n01440764/NAME.JPEG; found {listing(images)}")


def _has_validation_images(images: Path) -> bool:
    return (images / "val").is_dir() or (images / VALIDATION_TAR).is_file()


def _validation_images(images: Path, source: Path) -> Listed:
    folder, tar = images / "val", images / VALIDATION_TAR
    if folder.is_dir():
        if any(entry.is_folder for entry in visible(folder)):
            return class_folders(folder)
        files, others, hidden = files_in(folder)
        return Listed(_with_labels(parts(files), source), others, hidden)
    if tar.is_file():
        content, hidden = members(tar)
        return Listed(_with_labels(content, source), [], hidden)
    raise UserError(
        f"{images}: expected {VALIDATION_TAR}, val/n01440764/NAME.JPEG or val/NAME.JPEG; "
        f"found {listing(images)}"
    )


def _with_labels(images: list[tuple[str, FilePart]], source: Path) -> list[Found]:
    file, wnids = validation_wnids(source)
    stems = {name: composed(Path(name).stem) for name, _ in images}
    missing = [name for name, stem in stems.items() if stem not in wnids]
    if missing:
        raise UserError(
            f"{file} has no label for {missing[0]}" + f" and {len(missing) - 1} more" * (len(missing) > 1)
        )
    return [Found(wnids[stems[name]], name, part) for name, part in images]
