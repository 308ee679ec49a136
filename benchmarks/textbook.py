"""The textbook formulation of our networks: the baseline of every ratio in ``run.py``.

Same parameters, same interface, same result (tests/test_benchmarks.py), other arithmetic: float32
in contiguous NCHW; without a graph one grouped convolution with weights of each sample's own; with
a graph scale, shared convolution, scale; noise, bias, leaky ReLU, gain and clamp as passes of their
own; every change of resolution a depthwise convolution with the 4x4 kernel. Nothing here calls an
operator of ``defectgen.ops``, so the baseline stays what it is when those get faster.

Choices inside that definition are those that measured fastest: passes in place where no graph is
built, the gain of the discriminator folded into its weights, PyTorch's own leaky ReLU.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defectgen.networks.defect import DefectAwareResBlock
from defectgen.networks.discriminator import Discriminator, DiscriminatorBlock
from defectgen.networks.layers import Conv2d, Linear, ModulatedLayer, ToChannels, minibatch_std
from defectgen.networks.synthesis import SynthesisBlock, SynthesisNetwork
from defectgen.rng import Noise

GAIN = math.sqrt(2.0)


def fir(channels: int, like: Tensor, gain: float = 1.0) -> Tensor:
    """[1, 3, 3, 1] x [1, 3, 3, 1] / 64 for every channel, (C, 1, 4, 4)."""
    taps = like.new_tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return (torch.outer(taps, taps) * gain).expand(channels, 1, 4, 4)


def finish(y: Tensor, noise: Tensor | None, bias: Tensor, clamp: float | None) -> Tensor:
    """Noise, bias, leaky ReLU, gain, clamp: one pass each, in place without a graph."""
    if torch.is_grad_enabled():
        y = y if noise is None else y + noise
        y = F.leaky_relu(y + bias.reshape(1, -1, 1, 1), 0.2) * GAIN
        return y if clamp is None else y.clamp(-clamp, clamp)
    y = y if noise is None else y.add_(noise)
    y = F.leaky_relu_(y.add_(bias.reshape(1, -1, 1, 1)), 0.2).mul_(GAIN)
    return y if clamp is None else y.clamp_(-clamp, clamp)


class TextbookLinear(Linear):
    """Weights scaled, product, bias, activation."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, I) -> (N, O)."""
        weight = self.weight * (self.lr_mult / math.sqrt(self.weight.shape[1]))
        y = F.linear(x, weight, self.bias * self.lr_mult)
        return F.leaky_relu(y, 0.2) * GAIN if self.act == "lrelu" else y


class TextbookModulated(ModulatedLayer):
    """Modulated convolution, then one pass per term."""

    def forward(self, x: Tensor, w: Tensor, noise: Noise) -> Tensor:
        """x (N, I, H, W), w (N, W) -> (N, O, H*up, W*up)."""
        styles = self.affine(w)
        y = self._shared(x, styles) if torch.is_grad_enabled() else self._grouped(x, styles)
        plane = noise(self.name, x.shape[0], self.resolution)
        plane = None if plane is None else plane.to(x.device) * self.noise_strength
        return finish(y, plane, self.bias, self.clamp)

    def _shared(self, x: Tensor, styles: Tensor) -> Tensor:
        """Scale, shared convolution, scale."""
        x = x * styles[:, :, None, None]
        energy = self.weight.square().sum(dim=(2, 3))
        scale = (styles.square() @ energy.t() + 1e-8).rsqrt()[:, :, None, None]
        if self.up == 1:
            return F.conv2d(x, self.weight, padding=1) * scale
        turned = self.weight.flip(2, 3).transpose(0, 1)
        y = F.conv_transpose2d(x, turned, stride=2)
        return F.conv2d(y, fir(y.shape[1], y, 4.0), padding=1, groups=y.shape[1]) * scale

    def _grouped(self, x: Tensor, styles: Tensor) -> Tensor:
        """Weights of each sample's own, all samples in one grouped convolution."""
        batch, ins, height, width = x.shape
        own = self.weight * styles[:, None, :, None, None]  # (N, O, I, 3, 3)
        own = own * (own.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        x = x.reshape(1, batch * ins, height, width)
        if self.up == 1:
            y = F.conv2d(x, own.flatten(0, 1), padding=1, groups=batch)
            return y.reshape(batch, -1, height, width)
        turned = own.flip(3, 4).transpose(1, 2).flatten(0, 1)  # (N*I, O, 3, 3)
        y = F.conv_transpose2d(x, turned, stride=2, groups=batch)
        y = y.reshape(batch, -1, *y.shape[2:])
        return F.conv2d(y, fir(y.shape[1], y, 4.0), padding=1, groups=y.shape[1])


class TextbookToChannels(ToChannels):
    """ToRGB and ToMask: scale, 1x1 convolution, bias."""

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x (N, I, H, W), w (N, W) -> (N, O, H, W)."""
        styles = self.affine(w) / math.sqrt(self.weight.shape[1])
        y = F.conv2d(x * styles[:, :, None, None], self.weight, self.bias)
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


class TextbookSynthesisBlock(SynthesisBlock):
    """conv0, conv1, one after the other."""

    def features(self, x: Tensor | None, ws: Tensor, noise: Noise) -> Tensor:
        """x (N, I, r/2, r/2) or None at 4 px, ws (N, 2, W) -> (N, C, r, r)."""
        if x is None:
            x = self.const.expand(ws.shape[0], -1, -1, -1).contiguous()
            return self.conv1(x, ws[:, 0], noise)
        return self.conv1(self.conv0(x, ws[:, 0], noise), ws[:, 1], noise)


class TextbookSynthesis(SynthesisNetwork):
    """Output skips: images upsampled by a depthwise transposed convolution."""

    def forward(self, ws: Tensor, noise: Noise, residual=None) -> Tensor:
        """ws (N, L, W) -> image (N, C, R, R)."""
        x = image = None
        for k, resolution in enumerate(self.resolutions):
            block = self.block(resolution)
            first = max(0, 2 * k - 1)
            y = block.features(x, ws[:, first : first + 2], noise)
            y = y if residual is None else residual(resolution, x, y)
            rgb = block.to_rgb(y, ws[:, 2 * k + 1])
            image = rgb if image is None else double(image) + rgb
            x = y
        return image


def double(image: Tensor) -> Tensor:
    """Zero insertion and low-pass, (N, C, H, W) -> (N, C, 2H, 2W)."""
    channels = image.shape[1]
    kernel = fir(channels, image, 4.0)
    return F.conv_transpose2d(image, kernel, stride=2, padding=1, groups=channels)


class TextbookDefectBlock(DefectAwareResBlock):
    """The residual block: conv0, conv1, one after the other."""

    def features(self, x_in: Tensor, ws: Tensor, noise: Noise) -> Tensor:
        """x_in (N, I, r/2, r/2), ws (N, >=2, W) -> (N, C, r, r)."""
        return self.conv1(self.conv0(x_in, ws[:, 0], noise), ws[:, 1], noise)


class TextbookConv2d(Conv2d):
    """Convolution of the discriminator: blur, convolution, bias, activation, clamp."""

    def forward(self, x: Tensor, *, gain: float = 1.0) -> Tensor:
        """(N, I, H, W) -> (N, O, H, W) or (N, O, H/2, W/2)."""
        clamp = None if self.clamp is None else self.clamp * gain
        gain = gain * (GAIN if self.act == "lrelu" else 1.0)
        weight = self.weight * (gain / math.sqrt(self.weight[0].numel()))
        bias = None if self.bias is None else self.bias * gain
        size, channels = weight.shape[2], x.shape[1]
        if not self.down:
            y = F.conv2d(x, weight, bias, padding=size // 2)
        elif size == 1:
            x = F.conv2d(x, fir(channels, x), stride=2, padding=1, groups=channels)
            y = F.conv2d(x, weight, bias)
        else:
            x = F.conv2d(x, fir(channels, x), padding=2, groups=channels)
            y = F.conv2d(x, weight, bias, stride=2)
        y = F.leaky_relu(y, 0.2) if self.act == "lrelu" else y
        return y if clamp is None else y.clamp(-clamp, clamp)


class TextbookDiscriminator(Discriminator):
    """The same network in contiguous NCHW."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, R, R) in [-1, 1] -> logits (N, 1)."""
        x = self.from_input(x.contiguous())
        for block in self.blocks.values():
            x = block(x)
        x = self.conv(minibatch_std(x, self.minibatch_group))
        return self.out(self.dense(x.flatten(1)))


#: What each class of ours becomes.
TEXTBOOK: dict[type[nn.Module], type[nn.Module]] = {
    Linear: TextbookLinear,
    ModulatedLayer: TextbookModulated,
    ToChannels: TextbookToChannels,
    SynthesisBlock: TextbookSynthesisBlock,
    SynthesisNetwork: TextbookSynthesis,
    DefectAwareResBlock: TextbookDefectBlock,
    Conv2d: TextbookConv2d,
    DiscriminatorBlock: DiscriminatorBlock,
    Discriminator: TextbookDiscriminator,
}


def as_textbook(network: nn.Module) -> nn.Module:
    """Turn a network of ours, in place, into its textbook form; the weights stay."""
    for module in network.modules():
        module.__class__ = TEXTBOOK.get(type(module), type(module))
    return network
