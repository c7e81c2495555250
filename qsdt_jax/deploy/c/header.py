"""The header of a network in C99: its interface, its sizes, and how it is compiled."""

from qsdt_jax.deploy.c.tables import comment, filled
from qsdt_jax.deploy.program import Program

HEADER = """\
/* A quantized spiking network that classifies images, in C99.
$origin
   Compile:  cc -std=c99 -O3 -ffp-contract=off -c qsdt_model.c

   It needs no library but memset and memcpy, and no memory but its static buffers. Spike counts are
   multiplied with integer weights in int32_t. float, which must be IEEE 754 binary32, is used for scales and
   shifts, for the neurons and for the digits that real values are cut into. The logits are those of the
   Python forms of this network bit for bit, as long as each operation is rounded by itself: no -ffast-math,
   and no fused multiply-add (-ffp-contract=off; the file also asks for it itself).

   The buffers are shared by all calls: do not call it from two threads at once. */
#ifndef QSDT_MODEL_H
#define QSDT_MODEL_H

#include <stdint.h>

#define QSDT_HEIGHT $height /* of an image, in pixels */
#define QSDT_WIDTH $width
#define QSDT_CHANNELS $channels
#define QSDT_TIMESTEPS $timesteps /* T */
#define QSDT_LEVELS $levels /* D, the largest spike count */
#define QSDT_CLASSES $classes
#define QSDT_BUFFER_BYTES $buffer_bytes /* of static memory that is written to (RAM) */
#define QSDT_TABLE_BYTES $table_bytes /* of constants: weights, scales, shifts (flash) */

#ifdef __cplusplus
extern "C" {
#endif
$names$of_bytes
/* The logits of one image as normalised real values.
   images: (QSDT_TIMESTEPS, QSDT_HEIGHT, QSDT_WIDTH, QSDT_CHANNELS), finite, the frame of each time step.
   logits: (QSDT_CLASSES), written; the largest tells the class. */
void qsdt_forward_real(const float *images, float *logits);

#ifdef __cplusplus
}
#endif

#endif
"""

NAMES = """
/* Names of the classes in UTF-8. */
extern const char *const qsdt_class_names[QSDT_CLASSES];
"""

OF_BYTES = """
/* The logits of one image as bytes, scaled and cropped to its size already; they are normalised here.
   image: (QSDT_HEIGHT, QSDT_WIDTH, QSDT_CHANNELS), row by row, $order; shown in every time step.
   logits: (QSDT_CLASSES), written; the largest tells the class. */
void qsdt_forward(const uint8_t *image, float *logits);
"""


def header_of(
    program: Program,
    size: tuple[int, int, int],
    *,
    of_bytes: bool,
    named: bool,
    buffer_bytes: int,
    table_bytes: int,
    origin: str,
) -> str:
    """The text of the header.

    Args:
      program: a folded classifier.
      size: (H, W, C) of an image.
      of_bytes: whether it takes bytes too.
      named: whether the names of its classes are known.
      buffer_bytes, table_bytes: see `c.export.Source`.
      origin: a line that says where the network is from, or "".
    """
    height, width, channels = size
    order = "red, green, blue" if channels == 3 else "0 black, 255 white"
    return filled(
        HEADER,
        origin=f"   {comment(origin)}\n" if origin else "",
        height=str(height),
        width=str(width),
        channels=str(channels),
        timesteps=str(program.neuron.timesteps),
        levels=str(program.neuron.levels),
        classes=str(program.num_classes),
        buffer_bytes=str(buffer_bytes),
        table_bytes=str(table_bytes),
        names=NAMES if named else "",
        of_bytes=filled(OF_BYTES, order=order) if of_bytes else "",
    )
