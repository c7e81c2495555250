"""Images with annotations: ADE20K, and any pair of folders, as `dense.segmentation_folders` finds them."""

from pathlib import Path

from qsdt_jax.data.dense.segmentation_folders import Layout, ade20k_layout, segfolder_layout
from qsdt_jax.data.prepare.records import TRAIN, VALIDATION, DataSet, FilePart, Record
from qsdt_jax.data.sources import SplitName

SPLITS: dict[SplitName, str] = {"train": TRAIN, "test": VALIDATION}
ADE20K_EXPECTED = {"classes": 150, TRAIN: 20_210, VALIDATION: 2_000}


def read_ade20k(source: Path) -> DataSet:
    """ADE20K as the scene parsing challenge of 2016 gives it: 150 classes, and number 0 for all else.

    Raises:
      UserError: see `ade20k_layout` and `Layout.pairs`.
    """
    layout = ade20k_layout(source)
    return _dataset(source, layout, "ade20k", "Scenes of ADE20K with the classes of their pixels.")


def read_segfolder(source: Path, *, reduce_zero_label: bool = False) -> DataSet:
    """Images and masks of one's own; raises UserError as `segfolder_layout` and `Layout.pairs`."""
    layout = segfolder_layout(source, reduce_zero_label=reduce_zero_label)
    return _dataset(source, layout, "segfolder", "Images with the classes of their pixels.")


def _dataset(source: Path, layout: Layout, name: str, description: str) -> DataSet:
    splits, ignored, hidden = {}, [], []
    for split in SPLITS:
        if split != "train" and not layout.has(split):
            continue
        found = layout.pairs(split)
        splits[SPLITS[split]] = [
            Record(pair.name, None, FilePart.of(pair.image), FilePart.of(pair.annotation))
            for pair in found.pairs
        ]
        ignored += [*found.alone, *found.others]
        hidden += found.hidden
    return DataSet(
        name=name,
        description=description,
        source=source,
        class_names=layout.class_names,
        splits=splits,
        kind="segmentation",
        numbering=layout.numbering,
        expected=ADE20K_EXPECTED if name == "ade20k" else {},
        ignored=ignored,
        hidden=hidden,
    )
