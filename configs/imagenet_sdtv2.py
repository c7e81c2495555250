"""Spike-driven Transformer V2 on ImageNet-1K, by the values of its published code: two runs, T = 1 and T = 4.

Before    python -m launch prepare imagenet --source ILSVRC --out DATA
Command   python -m launch --config configs/imagenet_sdtv2.py --workdir runs/sdtv2 \
            --config.data.path=DATA/imagenet/1.0.0
          python -m launch --config configs/imagenet_sdtv2.py:l_t4 --workdir runs/sdtv2_t4 \
            --config.data.path=DATA/imagenet/1.0.0 --config.start_from=runs/sdtv2 \
            --config.distill.teacher=caformer_b36:FILE
Data      as for configs/imagenet_s.py
Expected  80.0 % top-1 of size L after the second run, 79.7 % without a teacher, quoted from the paper; not
          run here
Cost      not run here

Sizes are s, m, l and xl, of which the paper has the first three: 15.1, 31.3 and 55.4 M parameters. FILE has
timm's weights of CAFormer-B36, pre-trained on ImageNet-21k. Its first choice teaches the second head, which
the first run lacks. Batch-norm statistics are those of one GPU of the published code.

The network starts as the published one does. With widths of 16 to 64 and images of 32 or 128 pixels it cannot
be trained from there: no neuron behind an attention fires, and the published code's gradient has norm 1e33.
"""

from ml_collections import ConfigDict

from configs.imagenet_s import imagenet

CHANNELS = {
    "s": (64, 128, 256, 360),
    "m": (96, 192, 384, 480),
    "l": (128, 256, 512, 640),
    "xl": (192, 384, 768, 960),
}
# What differs from the quantized network, of the section model.
NETWORK = {
    "bits": 32,
    "neuron": "lif",
    "levels": 1,
    "decay_input": True,
    "reset": "hard",
    "surrogate": "sigmoid",
    "attention_scale": 0.125,
    "attention_gain": 1.0,
    "attention_threshold": 0.5,
    "layer_scale": False,
}
VARIANTS = (*CHANNELS, *(f"{size}_t4" for size in CHANNELS))


def get_config(variant: str = "l") -> ConfigDict:
    """The first run of a size, as "l", or with "_t4" the second; ValueError for another variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; there are {', '.join(VARIANTS)}")
    size, _, second = variant.partition("_")
    config = imagenet(CHANNELS[size])
    config.epochs = 200
    config.batch_size = 8 * 128
    config.model.update(NETWORK)
    config.model.norm_group = 128
    config.data.erase_probability = 0.25
    if second:
        config.epochs = 50
        config.batch_size = 8 * 24
        config.model.timesteps = 4
        config.model.distillation_head = True
        config.model.norm_group = 24
        config.optimizer.learning_rate = 2e-5
        config.optimizer.warmup_epochs = 5.0
        config.distill.labels = 0.5
        config.distill.kd = 0.5
        config.distill.kd_target = "hard"
    return config
