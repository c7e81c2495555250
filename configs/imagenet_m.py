"""ImageNet-1K from scratch, size M, by the recipe of the paper.

Before    python -m launch prepare imagenet --source ILSVRC --out DATA
Command   python -m launch --config configs/imagenet_m.py --workdir runs/imagenet_m \
            --config.data.path=DATA/imagenet/1.0.0
Data      as for configs/imagenet_s.py
Expected  no published number for this size; not run here
Cost      8 x A100 40 GB, 28 h, quoted from the paper; not run here

The variant `configs/imagenet_m.py:published`, and what to do with less memory: see configs/imagenet_s.py.
"""

from ml_collections import ConfigDict

from configs.imagenet_s import imagenet


def get_config(variant: str = "") -> ConfigDict:
    """Size M; see `imagenet` for the variants."""
    return imagenet((96, 192, 384, 480), variant=variant)
