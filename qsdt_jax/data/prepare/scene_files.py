"""Scenes of digits as files: in ADE20K's layout, and for the same images the JSON files of COCO.

    OUT/images/{training,validation}/NAME.jpg        OUT/annotations/{training,validation}/NAME.png
    OUT/objectInfo150.txt                            names of the classes
    OUT/annotations/instances_{train,val}.json       boxes and masks; OUT/train, OUT/val lead to the images

As in COCO, numbers of images and categories have gaps. A mask is a run-length code without compression.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from qsdt_jax.data.prepare.claim import REPORT_FILE, claimed, fields_of
from qsdt_jax.data.prepare.digit_scenes import BACKGROUND, CLASS_NAMES, DigitScenes, Scene
from qsdt_jax.data.prepare.metadata import UNFINISHED
from qsdt_jax.data.prepare.shard_file import in_order
from qsdt_jax.data.sources import DIGITS, SplitName
from qsdt_jax.errors import UserError
from qsdt_jax.files import write_atomically
from qsdt_jax.progress import Progress

NAMES_FILE = "objectInfo150.txt"
FOLDERS: dict[SplitName, str] = {"train": "training", "test": "validation"}
COCO: dict[SplitName, str] = {"train": "train", "test": "val"}
QUALITY = 95  # Of a JPEG.
FIRST_IMAGE = {"train": 139, "test": 400_139}  # COCO's number of the first image of a split,
IMAGE_STEP = 3  # and from one to the next.
CATEGORIES = (1, 2, 3, 4, 6, 7, 8, 9, 11, 13)  # Of the digits 0..9.
OTHERS = "other scenes"


class Written(NamedTuple):
    """What was written of a scene: COCO's entries, and pixels of each class, the unlabelled ones first."""

    image: dict[str, Any]
    objects: list[dict[str, Any]]
    pixels: np.ndarray


def write_scenes(out: Path, *, train: int, test: int, seed: int) -> dict[str, Any]:
    """Writes scenes into a folder of their own, and tells progress on stderr; finished ones are left alone.

    Args:
      out: the folder, new, empty, or left by an earlier call that was interrupted.
      train, test: numbers of scenes.
      seed: of the scenes.

    Returns:
      The report: "scenes" and "digits", the numbers of each by "training" and "validation".

    Raises:
      UserError: the folder holds something else, is in use, or cannot be written.
    """
    numbers: dict[SplitName, int] = {"train": train, "test": test}
    fingerprint = hashlib.sha256(repr(("digit-scenes", train, test, seed)).encode()).hexdigest()
    try:
        if not (out / REPORT_FILE).exists():
            with claimed(out, fingerprint, OTHERS):
                if not (out / REPORT_FILE).exists():  # Another process may just have finished.
                    _write(out, numbers, seed, fingerprint)
        report = fields_of(out / REPORT_FILE)
        if report.get("fingerprint") != fingerprint:
            raise UserError(f"{out} holds {OTHERS}; give another directory, or remove it")
        shutil.rmtree(out / UNFINISHED, ignore_errors=True)
        return report
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}") from None


def _write(out: Path, numbers: dict[SplitName, int], seed: int, fingerprint: str) -> None:
    progress = Progress(sum(numbers.values()), 0, 1, step="scene", images="scenes")
    written: dict[SplitName, list[Written]] = {"train": [], "test": []}
    try:
        for split, number in numbers.items():
            for kind in ("images", "annotations"):
                (out / kind / FOLDERS[split]).mkdir(parents=True, exist_ok=True)
            scenes = DigitScenes(split, seed)
            for one in in_order(lambda index, s=scenes: _write_scene(out, s, index), range(number)):
                written[split].append(one)
                progress.update(sum(map(len, written.values())), FOLDERS[split])
            content = {
                "info": {"description": "scenes of handwritten digits"},
                "licenses": [],
                "images": [one.image for one in written[split]],
                "annotations": [found for one in written[split] for found in one.objects],
                "categories": [
                    {"id": number, "name": name, "supercategory": "digit"}
                    for number, name in zip(CATEGORIES, DIGITS, strict=True)
                ],
            }
            write_atomically(out / "annotations" / f"instances_{COCO[split]}.json", json.dumps(content))
            link = out / COCO[split]
            link.unlink(missing_ok=True)
            link.symlink_to(Path("images") / FOLDERS[split])
    finally:
        progress.close()
    write_atomically(out / NAMES_FILE, _names(written["train"], written["test"]))
    report = {
        "data_set": "digit-scenes",
        "fingerprint": fingerprint,
        "scenes": {FOLDERS[split]: len(of) for split, of in written.items()},
        "digits": {FOLDERS[split]: sum(len(w.objects) for w in of) for split, of in written.items()},
    }
    os.sync()  # Else the report could outlive the files after a crash of the machine.
    write_atomically(out / REPORT_FILE, json.dumps(report, indent=1) + "\n")


def _write_scene(out: Path, scenes: DigitScenes, index: int) -> Written:
    scene = scenes.scene(index)
    name, folder = f"scene_{COCO[scenes.split]}_{index + 1:08d}", FOLDERS[scenes.split]
    encoded = io.BytesIO()
    Image.fromarray(scene.image).save(encoded, "JPEG", quality=QUALITY)
    (out / "images" / folder / f"{name}.jpg").write_bytes(encoded.getvalue())
    encoded = io.BytesIO()
    Image.fromarray(scene.annotation).save(encoded, "PNG")
    (out / "annotations" / folder / f"{name}.png").write_bytes(encoded.getvalue())
    number = FIRST_IMAGE[scenes.split] + IMAGE_STEP * index
    height, width = scene.annotation.shape
    image = {"id": number, "file_name": f"{name}.jpg", "height": height, "width": width}
    pixels = np.bincount(scene.annotation.reshape(-1), minlength=1 + len(CLASS_NAMES))
    return Written(image, _objects(scene, number), pixels)


def _objects(scene: Scene, image: int) -> list[dict[str, Any]]:
    """COCO's entries of the digits; area, box and mask are those of what is seen of each."""
    objects = []
    for place, (digit, visible) in enumerate(scene.digits):
        rows, columns = np.nonzero(visible)
        left, top = columns.min(), rows.min()
        box = [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
        objects.append(
            {
                "id": 10 * image + place,
                "image_id": image,
                "category_id": CATEGORIES[digit],
                "bbox": [float(side) for side in box],
                "area": len(rows),
                "segmentation": {"size": list(visible.shape), "counts": run_lengths(visible)},
                "iscrowd": 0,
            }
        )
    return objects


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's code of a mask, bool (H, W): lengths of its runs of 0 and 1 in turn, column after column.

    The first run is one of 0, of length 0 where the mask begins with 1.
    """
    flat = np.concatenate([[False], mask.T.reshape(-1)])
    starts = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], starts, [mask.size]])).tolist()


def _names(training: Sequence[Written], validation: Sequence[Written]) -> str:
    """objectInfo150.txt: of each class its share of the labelled pixels, and the images that it is in."""
    of_training, of_validation = (np.stack([w.pixels for w in of])[:, 1:] for of in (training, validation))
    total = of_training.sum(0)
    shares = total / max(1, total.sum())
    lines = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    for i, name in enumerate(CLASS_NAMES):
        images = f"{np.count_nonzero(of_training[:, i])}\t{np.count_nonzero(of_validation[:, i])}"
        lines.append(f"{BACKGROUND + i}\t{shares[i]:.4f}\t{images}\t{int(i == 0)}\t{name}")
    return "\n".join(lines) + "\n"
