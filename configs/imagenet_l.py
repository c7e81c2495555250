"""ImageNet-1K from scratch, size L, by the recipe of the paper.

Before    python -m launch prepare imagenet --source ILSVRC --out DATA
Command   python -m launch --config configs/imagenet_l.py --workdir runs/imagenet_l \
            --config.data.path=DATA/imagenet/1.0.0
Data      as for configs/imagenet_s.py
Expected  80.3 % top-1, quoted from the paper; not run here
Cost      8 x A100 40 GB, 36 h, quoted from the paper; not run here

The variant `configs/imagenet_l.py:published`, and what to do with less memory: see configs/imagenet_s.py.
"""

from ml_collections import ConfigDict

from configs.imagenet_s import imagenet


def get_config(variant: str = "") -> ConfigDict:
    """Size L; see `imagenet` for the variants."""
    return imagenet((128, 256, 512, 640), variant=variant)
