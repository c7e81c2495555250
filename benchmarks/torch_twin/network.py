"""The blocks and the network."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.torch_twin.layers import Attention, Neuron, QConv, QLinear

COUNTER = "num_batches_tracked"  # Of torch's batch norms; it plays no role with a momentum.


class Downsample(nn.Module):
    """[Neuron,] convolution with bias, batch norm."""

    def __init__(self, inputs: int, outputs: int, neuron: Neuron | None, bits: int, stride: int = 2):
        super().__init__()
        size, padding = (7, 3) if neuron is None else (3, 1)
        self.neuron = neuron
        self.encode_conv = QConv(inputs, outputs, size, stride, padding, bits=bits)
        self.encode_bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.encode_bn(self.encode_conv(x if self.neuron is None else self.neuron(x)))


class SepConv(nn.Module):
    """Neuron, 1x1 to twice the channels, batch norm, neuron, depthwise 7x7, 1x1, batch norm."""

    def __init__(self, channels: int, neuron: Neuron, bits: int):
        super().__init__()
        wide = 2 * channels
        self.neuron = neuron
        self.pwconv1 = QConv(channels, wide, 1, bits=bits, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.dwconv = QConv(wide, wide, 7, bits=bits, bias=False, padding=3, groups=wide)
        self.pwconv2 = QConv(wide, channels, 1, bits=bits, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.neuron(self.bn1(self.pwconv1(self.neuron(x))))
        return self.bn2(self.pwconv2(self.dwconv(spikes)))


class ConvBlock(nn.Module):
    """x + SepConv(x), then x + two spiking 3x3 convolutions."""

    def __init__(self, channels: int, ratio: int, neuron: Neuron, bits: int):
        super().__init__()
        wide = ratio * channels
        self.neuron, self.Conv = neuron, SepConv(channels, neuron, bits)
        self.conv1 = QConv(channels, wide, 3, bits=bits, bias=False, padding=1)
        self.bn1 = nn.BatchNorm2d(wide)
        self.conv2 = QConv(wide, channels, 3, bits=bits, bias=False, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.Conv(x)
        y = self.neuron(self.bn1(self.conv1(self.neuron(x))))
        return x + self.bn2(self.conv2(y))


class MLP(nn.Module):
    """Twice neuron, 1x1 with bias, batch norm."""

    def __init__(self, channels: int, ratio: int, neuron: Neuron, bits: int):
        super().__init__()
        wide = ratio * channels
        self.neuron = neuron
        self.fc1_conv, self.fc1_bn = QConv(channels, wide, 1, bits=bits), nn.BatchNorm2d(wide)
        self.fc2_conv, self.fc2_bn = QConv(wide, channels, 1, bits=bits), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc1_bn(self.fc1_conv(self.neuron(x)))
        return self.fc2_bn(self.fc2_conv(self.neuron(y)))


class TransformerBlock(nn.Module):
    """x + ls1 * attention, then x + ls2 * MLP."""

    def __init__(self, channels: int, ratio: int, neuron: Neuron, bits: int, heads: int, scale: float):
        super().__init__()
        self.attn = Attention(channels, heads, scale, neuron.levels, bits)
        self.mlp = MLP(channels, ratio, neuron, bits)
        self.layer_scale1 = nn.Parameter(torch.ones(channels))
        self.layer_scale2 = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.layer_scale1.view(-1, 1, 1) * self.attn(x)
        return x + self.layer_scale2.view(-1, 1, 1) * self.mlp(x)


class Twin(nn.Module):
    """Images (N, C, H, W) -> logits (N, K); arguments as those of `qsdt_jax.models.Backbone`."""

    def __init__(
        self,
        *,
        channels: Sequence[int],
        depth: int,
        num_classes: int,
        num_heads: int = 8,
        mlp_ratio: int = 4,
        in_channels: int = 3,
        bits: int = 4,
        levels: int = 4,
        attention_scale: float = 0.25,
    ):
        super().__init__()
        c1, c2, c3, c4 = channels
        neuron = Neuron(levels)

        def conv_blocks(width: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(ConvBlock(width, mlp_ratio, neuron, bits) for _ in range(count)))

        def transformer(width: int, count: int) -> nn.Sequential:
            settings = (width, mlp_ratio, neuron, bits, num_heads, attention_scale)
            return nn.Sequential(*(TransformerBlock(*settings) for _ in range(count)))

        in_stage3 = depth * 3 // 4
        self.downsample1_1 = Downsample(in_channels, c1 // 2, None, bits)
        self.ConvBlock1_1 = conv_blocks(c1 // 2, 1)
        self.downsample1_2 = Downsample(c1 // 2, c1, neuron, bits)
        self.ConvBlock1_2 = conv_blocks(c1, 1)
        self.downsample2 = Downsample(c1, c2, neuron, bits)
        self.ConvBlock2_1 = conv_blocks(c2, 1)
        self.ConvBlock2_2 = conv_blocks(c2, 1)
        self.downsample3 = Downsample(c2, c3, neuron, bits)
        self.block3 = transformer(c3, in_stage3)
        self.downsample4 = Downsample(c3, c4, neuron, bits, stride=1)
        self.block4 = transformer(c4, depth - in_stage3)
        self.neuron, self.head = neuron, QLinear(c4, num_classes, bits)

    def forward(self, x: Tensor) -> Tensor:
        x = self.ConvBlock1_1(self.downsample1_1(x))
        x = self.ConvBlock1_2(self.downsample1_2(x))
        x = self.ConvBlock2_2(self.ConvBlock2_1(self.downsample2(x)))
        x = self.block3(self.downsample3(x))
        x = self.block4(self.downsample4(x))
        return self.head(self.neuron(x.mean((2, 3))))

    def load_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes the parameters and statistics that `qsdt_jax.interop.to_torch` gives, all of them."""
        own = self.state_dict()
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        # The published MLP has one-dimensional convolutions.
        state = {name: t[..., None] if t.dim() == 3 else t for name, t in tensors.items()}
        counters = {name: value for name, value in own.items() if name.endswith(COUNTER)}
        self.load_state_dict({**counters, **state})
