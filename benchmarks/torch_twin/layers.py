"""LSQ weights, the neuron, and the layers of the blocks, (N, C, H, W)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Quantize(torch.autograd.Function):
    """w -> alpha * round(clip(w / alpha, Qn, Qp)), alpha (O,) of output channels, with LSQ's gradients."""

    @staticmethod
    def forward(ctx, w: Tensor, alpha: Tensor, bits: int) -> Tensor:
        steps = alpha.view(-1, *[1] * (w.dim() - 1))
        ratio = w / steps
        integers = ratio.clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).round_()
        ctx.save_for_backward(ratio, integers)
        ctx.bits = bits
        return integers * steps

    @staticmethod
    def backward(ctx, grad: Tensor):
        ratio, integers = ctx.saved_tensors
        largest = 2 ** (ctx.bits - 1) - 1
        inside = (ratio >= -largest - 1) & (ratio <= largest)
        of_alpha = grad * (integers - torch.where(inside, ratio, 0))
        factor = (ratio.numel() * largest) ** -0.5
        return grad * inside, factor * of_alpha.flatten(1).sum(1), None


class Fire(torch.autograd.Function):
    """Potential u -> spikes `step` * floor(clip(D u, 0, D) + 1/2), the gradient straight through inside."""

    @staticmethod
    def forward(ctx, u: Tensor, levels: int, step: float) -> Tensor:
        v = u * levels
        ctx.save_for_backward((v > 0) & (v < levels))
        ctx.slope = levels * step
        return v.clamp_(0, levels).add_(0.5).floor_().mul_(step)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (gate,) = ctx.saved_tensors
        return grad * gate * ctx.slope, None, None


class Neuron(nn.Module):
    """The IE-LIF neuron of one time step; `gain` is a factor on the value of a spike."""

    def __init__(self, levels: int, gain: float = 1.0):
        super().__init__()
        self.levels, self.step = levels, gain / levels

    def forward(self, u: Tensor) -> Tensor:
        return Fire.apply(u, self.levels, self.step)


class QConv(nn.Conv2d):
    """Convolution with LSQ weights."""

    def __init__(self, *sizes: int, bits: int, **options):
        super().__init__(*sizes, **options)
        self.bits, self.alpha = bits, nn.Parameter(torch.ones(self.out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, Quantize.apply(self.weight, self.alpha, self.bits), self.bias)


class QLinear(nn.Linear):
    """Dense layer with LSQ weights."""

    def __init__(self, inputs: int, outputs: int, bits: int):
        super().__init__(inputs, outputs)
        self.bits, self.alpha = bits, nn.Parameter(torch.ones(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, Quantize.apply(self.weight, self.alpha, self.bits), self.bias)


class BorderedBatchNorm(nn.Module):
    """Batch norm, then a border of one pixel of what it makes of zero by its running statistics."""

    def __init__(self, channels: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        bn = self.bn
        y = F.pad(bn(x), (1, 1, 1, 1))
        with torch.no_grad():
            zero = bn.bias - bn.running_mean * bn.weight * torch.rsqrt(bn.running_var + bn.eps)
            zero = zero.to(y.dtype).view(1, -1, 1, 1)
        y[:, :, :1], y[:, :, -1:], y[:, :, :, :1], y[:, :, :, -1:] = (zero,) * 4
        return y


class RepConv(nn.Module):
    """1x1, batch norm with border, depthwise 3x3, 1x1, batch norm."""

    def __init__(self, channels: int, bits: int):
        super().__init__()
        self.body = nn.Sequential(
            QConv(channels, channels, 1, bits=bits, bias=False),
            BorderedBatchNorm(channels),
            nn.Sequential(
                QConv(channels, channels, 3, bits=bits, bias=False, groups=channels),
                QConv(channels, channels, 1, bits=bits, bias=False),
                nn.BatchNorm2d(channels),
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Attention(nn.Module):
    """Q-SDSA: `scale` * q (k^T v) of spikes, heads apart, no softmax."""

    def __init__(self, channels: int, heads: int, scale: float, levels: int, bits: int):
        super().__init__()
        self.heads, self.scale = heads, scale
        self.neuron, self.out_neuron = Neuron(levels), Neuron(levels, gain=2.0)
        for name in ("q_conv", "k_conv", "v_conv", "proj_conv"):
            setattr(self, name, nn.Sequential(RepConv(channels, bits), nn.BatchNorm2d(channels)))

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.neuron(x)
        apart = len(x), self.heads, x.shape[1] // self.heads, -1
        convs = self.q_conv, self.k_conv, self.v_conv
        q, k, v = (self.neuron(conv(spikes)).reshape(apart) for conv in convs)
        kv = self.scale * (k @ v.transpose(-1, -2))
        y = (kv.transpose(-1, -2) @ q).reshape(x.shape)
        return self.proj_conv(self.out_neuron(y))
