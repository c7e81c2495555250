"""The numerical choices that every layer of one network shares."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import DTypeLike

from qsdt_jax.core.lsq import weight_range
from qsdt_jax.core.neurons import Neuron, make_neuron
from qsdt_jax.layers.bits_rules import FLOAT_BITS, BitsRule, bits_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Numerics:
    """Bits, neuron, dtypes and statistics that the layers of one network share.

    Attributes:
      bits: weight bits 1..8, or 32 for float weights.
      bits_rules: of the layers with other bits; the first whose pattern matches counts. A layer does not
        know the others: that each rule fits one is checked where `models.Classifier` or
        `models.init_variables` draws variables, and by `bits_rules.check_rules` for any other network.
      neuron: the spiking neuron; None for the ReLU of a float network.
      dtype: operand type of the matrix products. Everything between them (membranes, residual stream,
        normalisation) is computed in `real_dtype`, and sums of products of spikes are exact. In a training in
        bfloat16 GPUs write those of dense convolutions, and 1x1 sums that int16 does not hold, to memory
        rounded to it (`layers.lowering.gpu`).
      param_dtype: type in which parameters and statistics are stored.
      spike_dtype: operand type of products of spikes with integer weights, where it shall differ from
        `dtype` (int8, float8_e4m3fn); their result is the same, exactly.
      norm_group: images that share batch-norm statistics; 0 for the whole batch.
      freeze_statistics: whether training, too, normalises by the running statistics and leaves them as they
        are; the affine is trained.
      exact_evaluation: whether evaluation equals the deployed network bit for bit, on any batch size, for
        which it multiplies real inputs twice, as short whole numbers (`layers.product.exact_convolution`),
        and float weights of spikes several times (`layers.product.exact_selection`). Float weights of real
        inputs have no exact product, so a network of float weights has no exact evaluation.
    """

    bits: int = 4
    bits_rules: tuple[BitsRule, ...] = ()
    neuron: Neuron | None = dataclasses.field(default_factory=make_neuron)
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    spike_dtype: DTypeLike | None = None
    norm_group: int = 0
    freeze_statistics: bool = False
    exact_evaluation: bool = True

    def __post_init__(self):
        if self.bits != FLOAT_BITS:
            weight_range(self.bits)  # Raises when out of range.
        if self.norm_group < 0:
            raise ValueError(f"norm_group must not be negative, got {self.norm_group}")
        for bits in {self.bits, *(rule.bits for rule in self.bits_rules)}:
            self._check_spike_dtype(bits)

    def of(self, path: Sequence[str]) -> "Numerics":
        """The numerical choices of one layer, which no rule changes any more."""
        bits = bits_of("/".join(path), self.bits_rules, otherwise=self.bits)
        exact = self.exact_evaluation and not bits == self.bits == FLOAT_BITS
        return dataclasses.replace(self, bits=bits, bits_rules=(), exact_evaluation=exact)

    def group_count(self, rows: int) -> int:
        """Groups of images that share statistics, of so many images times T.

        Raises:
          ValueError: the images do not divide into groups of `norm_group`.
        """
        per_group = self.norm_group * self.timesteps
        if not per_group:
            return 1
        if rows % per_group:
            raise ValueError(
                f"a batch of {rows // self.timesteps} images does not divide into batch-norm groups of "
                f"{self.norm_group}"
            )
        return rows // per_group

    @property
    def timesteps(self) -> int:
        """T."""
        return 1 if self.neuron is None else self.neuron.timesteps

    @property
    def real_dtype(self) -> DTypeLike:
        """Type of membranes, residual stream and normalisation: float32, or float64 if asked for."""
        return jnp.promote_types(jnp.promote_types(self.dtype, self.param_dtype), jnp.float32)

    @property
    def spike_operand_dtype(self) -> DTypeLike:
        return self.dtype if self.spike_dtype is None else self.spike_dtype

    def _check_spike_dtype(self, bits: int):
        if bits == FLOAT_BITS:
            return
        smallest, largest = weight_range(bits)
        dtype = jnp.dtype(self.spike_operand_dtype)
        if jnp.issubdtype(dtype, jnp.integer):
            exact = int(jnp.iinfo(dtype).min), int(jnp.iinfo(dtype).max)
        else:
            limit = 2 ** (jnp.finfo(dtype).nmant + 1)
            exact = -limit, limit
        levels = 0 if self.neuron is None else self.neuron.levels
        if smallest < exact[0] or max(largest, levels) > exact[1]:
            raise ValueError(
                f"{dtype} holds the integers {exact[0]}..{exact[1]} exactly: too few for "
                f"{bits}-bit weights and counts up to {levels}"
            )
