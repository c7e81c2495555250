"""Spike-driven Transformer V2, or Meta-SpikeFormer (Yao et al., ICLR 2024): attributes of the backbone.

Its published code has the layers and names of the quantized network. What differs is the neuron and what
attention makes of its product:

|                    | QSD                 | SDT-V2                                               |
|--------------------|---------------------|------------------------------------------------------|
| weights            | 4-bit LSQ           | float                                                |
| neuron             | IE-LIF, counts 0..D | LIF of tau 2 whose input is halved, hard reset       |
| surrogate          | straight through    | derivative of sigmoid(4 z)                           |
| attention scale    | 1/4                 | 1/8                                                  |
| behind the product | spikes worth 2/D    | spikes worth 1, threshold 1/2                        |
| layer scales       | two in each block   | none                                                 |
| second head        | none                | optional, `head_kd` there, `distillation_head` here  |

`timesteps` is free: the same weights run at any T. Published are T = 1 and 4.
"""

from typing import Any

from qsdt_jax.layers.bits_rules import FLOAT_BITS
from qsdt_jax.models.classifier import SIZES

SDTV2: dict[str, Any] = {
    "bits": FLOAT_BITS,
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
# The paper's 15.1, 31.3 and 55.4 M parameters, and one more. In the published file M, L and XL are
# metaspikformer_8_384, _8_512 and _8_768; S is not there.
SDTV2_SIZES: dict[str, dict[str, Any]] = {size: {**SIZES[size], **SDTV2} for size in ("S", "M", "L", "XL")}
