"""DVS128-Gesture, 11 gestures before an event camera, by the recipe of CIFAR10-DVS.

Before    python -m launch prepare dvs128gesture --source DvsGesture --out data/dvs128gesture
Command   python -m launch --config configs/dvs128gesture.py --workdir runs/dvs128gesture \
            --config.data.path=data/dvs128gesture
Data      DVS128-Gesture as `prepare` makes it: 1,176 streams to train, 288 to test, 128x128
Expected  unknown: the paper has no number for these data, and it was not run here, for want of them
Cost      unknown; not run here

T = 16 frames of equal event count, from drawn weights; --config.start_from=runs/imagenet_s transfers. Streams
are shifted and not mirrored: a mirror makes a right hand of a left one, which is another class.
"""

from ml_collections import ConfigDict

from configs import cifar10dvs


def get_config() -> ConfigDict:
    """DVS128-Gesture."""
    config = cifar10dvs.get_config()
    config.batch_size = 32
    config.data.augmentation = "roll"
    config.data.cutmix = 0.0  # A box of another person's frames shows no gesture.
    config.eval.batch_size = 32
    return config
