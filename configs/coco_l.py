"""COCO detection and instance segmentation, Mask R-CNN on size L, by the recipe of the paper.

Command   python -m launch --config configs/coco_l.py --workdir runs/coco_l \
            --config.data.path=coco --config.start_from=runs/imagenet_l
Data      as for configs/coco_s.py, which says what is taken and what the variant "published" changes
Expected  the paper's table; not run here, for want of the data and of a GPU
Cost      4 x A100, quoted from the paper; not run here
"""

from ml_collections import ConfigDict

from configs.coco_s import coco


def get_config(variant: str = "") -> ConfigDict:
    """Size L; see `coco` for the variants."""
    return coco((128, 256, 512, 640), variant=variant)
