"""The classifier once more, as one would write it in PyTorch: what our speed is compared with.

It computes what `qsdt_jax.models.Classifier` computes, on real values: weights are integers times their step,
spikes are counts divided by D. Names of modules are those of the published checkpoints, so that
`qsdt_jax.interop.to_torch` gives its state. The project itself never imports torch.
"""

from benchmarks.torch_twin.network import Twin

__all__ = ["Twin"]
