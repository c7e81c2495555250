"""What a network computes for one image: operations, weights and activations of a layer."""

import dataclasses

from qsdt_jax.models.operations import Kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """One product of a network, for one image and all time steps together.

    Attributes:
      name: of the layer; the two products of an attention are ".../attn/k^T v" and ".../attn/q (k^T v)",
        of a DSSA ".../Y1 s^T" and ".../A^T Y2".
      kind: "conv" (dense and 1x1 included), "depthwise", or "attention" for a product of two activations.
      macs: multiply-accumulates of a network without spikes, those on padding included as usual.
      weights, bits: their number and width; 0 for attention.
      inputs, outputs: activations that come in and go out.
      stride: pixels of the image, along its height, to a row of what goes out; of k^T v to one of tokens; in
        a detector's heads, rows of a region, at least 1.
      spikes: name of the counts that come in and select what is added; of an attention product those of k and
        of q, of a DSSA of s and of A. None where real values come in.
      entering: the same, but where real values come in the counts at the head of the RepConv or SepConv that
        they belong to; None for the images.
    """

    name: str
    kind: Kind
    macs: int
    weights: int
    bits: int
    inputs: int
    outputs: int
    stride: int
    spikes: str | None
    entering: str | None
