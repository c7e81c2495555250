"""The C99 functions behind the steps of a program, as texts; `deploy.c.export` writes those that are needed.

Each does what `deploy.reference` does, with one rounding an operation.
"""

from collections.abc import Iterator

from qsdt_jax.core.neurons import Neuron
from qsdt_jax.deploy.c.products import (
    DIGITS,
    LAYER,
    LAYER_OF_FLOAT_WEIGHTS,
    LAYER_OF_REALS,
    LAYER_OF_SPIKES,
    POOL,
    SUMS,
)
from qsdt_jax.deploy.c.tables import filled, real
from qsdt_jax.deploy.program import Add, Attend, Fire, Linear, Pool, Program
from qsdt_jax.layers.bits_rules import FLOAT_BITS

START = """\
/* What this file is and how it is compiled stands in its header. */
#include "qsdt_model.h"

#include <float.h>
#include <string.h>

#if FLT_RADIX != 2 || FLT_MANT_DIG != 24 || FLT_MAX_EXP != 128
#error "float must be IEEE 754 binary32"
#endif
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16
#error "float operations must round to float: on 32-bit x86 add -msse2 -mfpmath=sse"
#endif
#ifdef __FAST_MATH__
#error "-ffast-math changes the results"
#endif
/* a * b + c rounds twice here, as in the other forms of the network. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize ("fp-contract=off")
#else
#pragma STDC FP_CONTRACT OFF
#endif

/* May be defined before this file is read: it is told the counts of each neuron, layer by layer. */
#ifndef QSDT_SPIKES
#define QSDT_SPIKES(counts, number) ((void)0)
#endif
"""

ATTEND = """\
/* y = scale * q (k^T v), head by head, of spike counts. */
static void attend(const uint8_t *q, const uint8_t *k, const uint8_t *v, float *y, int32_t tokens,
                   int32_t channels, int32_t heads, float scale)
{
    const int32_t width = channels / heads;
    int32_t t, h, n, i, j;
    for (t = 0; t < QSDT_TIMESTEPS; t++)
        for (h = 0; h < heads; h++) {
            const int32_t start = t * tokens * channels + h * width;
            memset(products, 0, sizeof(products[0]) * (size_t)(width * width));
            for (n = 0; n < tokens; n++)
                for (i = 0; i < width; i++) {
                    const int32_t value = k[start + n * channels + i];
                    if (value == 0)
                        continue;
                    for (j = 0; j < width; j++)
                        products[i * width + j] += value * v[start + n * channels + j];
                }
            for (n = 0; n < tokens; n++) {
                memset(sums, 0, sizeof(sums[0]) * (size_t)width);
                for (i = 0; i < width; i++) {
                    const int32_t value = q[start + n * channels + i];
                    if (value == 0)
                        continue;
                    for (j = 0; j < width; j++)
                        sums[j] += value * products[i * width + j];
                }
                for (j = 0; j < width; j++)
                    y[start + n * channels + j] = (float)sums[j] * scale;
            }
        }
}
"""

ADD = """\
/* y = left + right. */
static void add(const float *left, const float *right, float *y, int32_t size)
{
    int32_t k;
    for (k = 0; k < size; k++)
        y[k] = left[k] + right[k];
}
"""

FIRE = """\
/* Spike counts 0 to D of the currents x, of `neurons` in each time step. */
static void fire(const float *x, uint8_t *counts, int32_t neurons, float gain)
{
    int32_t k, t;
    for (k = 0; k < neurons; k++) {
        float membrane = 0.0f;
        for (t = 0; t < QSDT_TIMESTEPS; t++) {
            const float current = x[t * neurons + k] * gain;
            float v;
            uint8_t count;
            membrane = membrane + current;
            v = $scale * membrane;
$offset            v = v > 0.0f ? v : 0.0f; /* Of what is no number, 0. */
            v = v < $levels ? v : $levels;
            count = (uint8_t)(v + 0.5f);
            counts[t * neurons + k] = count;
$reset
            membrane = $decay * membrane;
        }
    }
    QSDT_SPIKES(counts, QSDT_TIMESTEPS * neurons);
}
"""
SOFT = """\
            {
                const float spent = (float)count * $spent;
                membrane = membrane - spent;
            }"""
OFFSET = "            v = v - $offset;\n"
HARD = "            membrane = count > 0 ? 0.0f : membrane;"

FORWARD = """\
void qsdt_forward_real(const float *images, float *logits)
{
    int32_t k, t;
$steps    /* The logits, averaged over the time steps. */
    for (k = 0; k < QSDT_CLASSES; k++) {
        const float *y = $logits + k;
        float total = y[0];
        for (t = 1; t < QSDT_TIMESTEPS; t++)
            total = total + y[t * QSDT_CLASSES];
        logits[k] = total * $share;
    }
}
"""

OF_BYTES = """
void qsdt_forward(const uint8_t *image, float *logits)
{
    const int32_t size = QSDT_HEIGHT * QSDT_WIDTH * QSDT_CHANNELS;
    float *images = $images;
    int32_t k, t;
    for (t = 0; t < QSDT_TIMESTEPS; t++)
        for (k = 0; k < size; k++)
            images[t * size + k] = pixels[image[k] * QSDT_CHANNELS + k % QSDT_CHANNELS];
    qsdt_forward_real(images, logits);
}
"""


def functions(program: Program) -> Iterator[str]:
    """Those that the steps of a program call, each after those that it calls."""
    spikes = [layer for layer in program.layers if layer.spikes]
    reals = [layer for layer in program.layers if not layer.spikes]
    pools, attends, adds, fires = (
        any(isinstance(step, kind) for step in program.steps) for kind in (Pool, Attend, Add, Fire)
    )
    yield LAYER
    if reals or pools:
        yield DIGITS
    if spikes:
        yield filled(SUMS, name="spikes", type="uint8_t", what="counts")
    if any(layer.bits != FLOAT_BITS for layer in spikes):
        yield LAYER_OF_SPIKES
    if any(layer.bits == FLOAT_BITS for layer in spikes):
        yield LAYER_OF_FLOAT_WEIGHTS
    if reals:
        yield filled(SUMS, name="digits", type="int16_t", what="digits")
        yield LAYER_OF_REALS
    rest = ((pools, POOL), (attends, ATTEND), (adds, ADD), (fires, fire_function(program.neuron)))
    yield from (function for needed, function in rest if needed)


def fire_function(neuron: Neuron) -> str:
    """The function of all neurons of a program."""
    return filled(
        FIRE,
        reset=HARD if neuron.reset == "hard" else filled(SOFT, spent=real(1 / neuron.scale)),
        scale=real(neuron.scale),
        offset="" if neuron.threshold == 0.5 else filled(OFFSET, offset=real(neuron.threshold - 0.5)),
        levels=real(neuron.levels),
        decay=real(neuron.decay),
    )


def is_depthwise(layer: Linear) -> bool:
    return layer.geometry.groups > 1
