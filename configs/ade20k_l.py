"""ADE20K semantic segmentation, Semantic FPN on size L, by the recipe of the paper.

Command   python -m launch --config configs/ade20k_l.py --workdir runs/ade20k_l \
            --config.data.path=ADEChallengeData2016 --config.start_from=runs/imagenet_l
Data      as for configs/ade20k_s.py, which says what is taken and what the variant "published" changes
Expected  the paper's table; not run here, for want of the data and of a GPU
Cost      4 x A100, quoted from the paper; not run here. Compiled for four H100s, a step takes 4.4 GB of each
          with --config.model.remat=blocks
"""

from ml_collections import ConfigDict

from configs.ade20k_s import ade20k


def get_config(variant: str = "") -> ConfigDict:
    """Size L; see `ade20k` for the variants."""
    return ade20k((128, 256, 512, 640), variant=variant)
