"""Writes the `.pth` files of this folder. Made once with torch 2.13.0 (CPU): python make_fixtures.py

PyTorch is needed only here; the tests rebuild the expected numbers with NumPy.
"""

import argparse
import os
import pathlib
import warnings

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

FOLDER = pathlib.Path(__file__).parent


def tensors() -> dict[str, torch.Tensor]:
    """Every kind of view and type; `base` counts 0..23 in shape (2, 3, 4)."""
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    numbers = torch.tensor([-2, 0, 1, 100])
    return {
        "base": base,
        "transposed": base.permute(2, 0, 1),
        "sliced": base[1, ::2, 1:],
        "expanded": base[:, :1, 0].expand(2, 5),
        "scalar": torch.tensor(2.5),
        "scalar_view": base[1, 2, 3],
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.tensor([1.0, -1.0])),
        "float64": torch.tensor([1 / 3], dtype=torch.float64),
        "float16": torch.tensor([1 / 3], dtype=torch.float16),
        "bfloat16": torch.tensor([1 / 3, -3.0], dtype=torch.bfloat16),
        "int64": numbers,
        "int32": numbers.int(),
        "int16": numbers.short(),
        "int8": numbers.char(),
        "uint8": torch.tensor([0, 255], dtype=torch.uint8),
        "bool": numbers > 0,
    }


def training_checkpoint() -> dict:
    """What a training script under DistributedDataParallel saves."""
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3))
    with torch.no_grad():
        for i, parameter in enumerate(net.parameters()):
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) + 10 * i)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.0)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {
        "model": net.state_dict(prefix="module."),
        "optimizer": optimizer.state_dict(),
        "epoch": 199,
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "best": np.float64(0.5),
        "history": np.arange(3),
        "args": argparse.Namespace(
            lr=6e-4, output_dir=pathlib.Path("out"), device=torch.device("cpu"), betas=(0.9, 0.95)
        ),
    }


class Evil:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch evil_was_run",)


if __name__ == "__main__":
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    torch.save(tensors(), FOLDER / "tensors.pth")
    torch.save(tensors(), FOLDER / "tensors_protocol5.pth", pickle_protocol=5)
    torch.save(training_checkpoint(), FOLDER / "checkpoint.pth")
    torch.save({"model": {"a": torch.ones(1)}, "args": Evil()}, FOLDER / "evil.pth")
    torch.save(torch.nn.Linear(1, 1), FOLDER / "whole_module.pth")
    torch.save({"a": torch.ones(1)}, FOLDER / "legacy.pth", _use_new_zipfile_serialization=False)
