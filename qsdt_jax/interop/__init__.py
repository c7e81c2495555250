"""Exchange with the published PyTorch implementation, without PyTorch."""

from qsdt_jax.interop.published import from_torch, to_torch, torch_name

__all__ = ["from_torch", "to_torch", "torch_name"]
