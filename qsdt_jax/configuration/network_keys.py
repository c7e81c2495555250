"""The keys of a configuration that say what the network is; see `configuration.defaults`."""

from collections.abc import Mapping

from qsdt_jax import bounds
from qsdt_jax.configuration.key import FLOAT32, Key
from qsdt_jax.configuration.rules import NoneOr, OneOf, Share, WholeNumbers, Within

# Here as plain data, so that reading a config loads no library; a test holds it to the library's own.
DTYPES = ("float32", "bfloat16", "float64")

NETWORK_KEYS: Mapping[str, Key] = {
    "model.channels": Key(
        (64, 128, 256, 360), "C1..C4, widths of the stages", WholeNumbers(4), limit=bounds.CHANNELS
    ),
    "model.depth": Key(8, "transformer blocks, at least 2", limit=bounds.DEPTH),
    "model.num_heads": Key(8, "attention heads, which divide C3 and C4", limit=bounds.FACTOR),
    "model.mlp_ratio": Key(4, "widening in conv blocks and MLPs", limit=bounds.FACTOR),
    "model.bits": Key(4, "of the weights: 1..8, 32 for float"),
    "model.bits_rules": Key(
        (),
        "pairs (regular expression, bits) of layers that differ; the first that matches a whole path counts",
    ),
    "model.levels": Key(4, "D, largest spike count", limit=bounds.LEVELS),
    "model.timesteps": Key(1, "T, time steps", limit=bounds.TIMESTEPS),
    "model.neuron": Key("ie_lif", "ie_lif, i_lif, lif, quantized_relu; relu is none, for a float twin"),
    "model.decay": Key(None, "of the membrane per time step, 0..1; None: the neuron's own"),
    "model.decay_input": Key(False, "the input of a neuron is multiplied by 1 - decay"),
    "model.reset": Key("soft", "of the membrane after a spike: soft, hard"),
    "model.surrogate": Key(
        "straight_through", "gradient of a spike: straight_through, rectangular, triangle, sigmoid, arctan"
    ),
    "model.rectify": Key("bn", "of q, k, v before they fire: bn (published code), norm"),
    "model.attention": Key("spiking", "spiking, softmax"),
    "model.attention_scale": Key(0.25, "factor on the attention product", limit=FLOAT32),
    "model.attention_gain": Key(
        2.0, "factor on the value of a spike of the neuron behind that product", limit=FLOAT32
    ),
    "model.attention_threshold": Key(
        None, "of that neuron, in spikes; None: that of the others", limit=FLOAT32
    ),
    "model.qkv_bias_init": Key(
        0.0, "initial bias of the batch norms before the neurons of q, k and v", limit=FLOAT32
    ),
    "model.layer_scale": Key(True, "transformer blocks have layer scales"),
    "model.layer_scale_init": Key(1e-6, "initial layer scale of the transformer blocks", limit=FLOAT32),
    "model.attention_tokens": Key(
        0,
        "tokens of the images that attention_scale is meant for, which is divided by how many times as many "
        "an image has; 0: one factor for all",
        limit=bounds.SIDE**2,
    ),
    "model.drop_path": Key(
        0.0, "probability at the last block, rising from 0 at the first", Share(with_one=False)
    ),
    "model.distillation_head": Key(False, "a second head for distill.kd, as DeiT; the mean of both answers"),
    "model.fpn_channels": Key(
        128, "of segmentation and detection: width of neck and heads", limit=bounds.CHANNELS
    ),
    "model.neuron_input_gain": Key(
        1.0,
        "of segmentation and detection: factor on the input of every neuron of neck and heads, in detection "
        "also the inverse on its output; 1/4 with published weights",
        limit=FLOAT32,
    ),
    "model.box_features": Key(1024, "of detection: width of the box head", limit=bounds.CHANNELS),
    "model.final_neuron": Key(False, "of detection: class and box take spikes, not real values"),
    "model.anchor_scale": Key(8.0, "of detection: side of a square anchor, in strides", limit=FLOAT32),
    "model.geometry": Key(
        "true",
        "of detection: true; published, where the two coarsest maps have half of the strides that anchors "
        "and pooling take them for",
    ),
    "model.freeze_statistics": Key(
        False, "training, too, normalises by the running statistics of batch norm and leaves them as they are"
    ),
    "model.norm_group": Key(
        0, "images that share batch-norm statistics; 0 for the whole batch", Within(0), limit=bounds.BATCH
    ),
    "model.remat": Key(
        "none",
        "what the backward pass computes again: none; blocks, what is inside them; spikes, all but a byte of "
        "each neuron: less memory, more time",
    ),
    "model.exact_evaluation": Key(True, "equal to the deployed network bit for bit, and slower"),
    "model.dtype": Key("float32", "operands of the products", OneOf(DTYPES)),
    "resformer.channels": Key(
        (),
        "C1..C3, widths of a SpikingResformer, which then is the classifier in the place of the network of "
        "the section model; of that section it has timesteps, norm_group, remat and dtype alone",
        NoneOr(WholeNumbers(3)),
        limit=bounds.CHANNELS,
    ),
    "resformer.num_heads": Key(
        (1, 3, 6),
        "attention heads of its stages, which divide its channels",
        WholeNumbers(3),
        limit=bounds.FACTOR,
    ),
    "resformer.patches": Key(
        (4, 2, 1),
        "of its stages, sides of the patches that attention pools",
        WholeNumbers(3),
        limit=bounds.KERNEL,
    ),
    "resformer.depths": Key(
        (1, 2, 3),
        "of its stages, pairs of attention and feed-forward network",
        WholeNumbers(3),
        limit=bounds.DEPTH,
    ),
    "resformer.group_size": Key(
        64, "channels of a group of its 3x3 convolutions, which divide 4 C", limit=bounds.CHANNELS
    ),
    "resformer.small_images": Key(
        False, "its stem is a 3x3 convolution of stride 1, not a 7x7 one and pooling, both of stride 2"
    ),
    "resformer.learned_decay": Key(False, "each layer of its neurons learns its decay"),
    "resformer.nominal_size": Key(
        0,
        "side of the images whose pooled tokens scale its attention, as in the published code; 0: the "
        "images' own",
        limit=bounds.SIDE,
    ),
}
