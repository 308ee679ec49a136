"""The textbook formulation of our networks: the baseline of every ratio in ``run.py``.

Same parameters, same interface, same result (tests/test_benchmarks.py), other arithmetic: float32
in contiguous NCHW; without a graph one grouped convolution with weights of each sample's own; with
a graph scale, shared convolution, scale; noise, bias, leaky ReLU, gain and clamp as passes of their
own; every change of resolution a depthwise convolution with the 4x4 kernel. Nothing here calls an
operator of ``defectgen.ops``, so the baseline stays what it is when those get faster.

Choices inside that definition are those that measured fastest:

- passes in place wherever autograd allows it, and PyTorch's own leaky ReLU;
- weights of each sample's own are written in one pass, the demodulation taken from the squares of
  the shared weights;
- bias and gain of the discriminator go into its convolutions;
- the depthwise filter is closed under differentiation, since PyTorch's second derivative also
  computes the gradient of its constant kernel, by one convolution per channel with the image as
  kernel. Dense convolutions are left to PyTorch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defectgen.networks.defect import DefectBranch, DefectPass
from defectgen.networks.defect_block import DefectAwareResBlock
from defectgen.networks.discriminator import Discriminator
from defectgen.networks.layers import Conv2d, Linear, ModulatedLayer, ToChannels, minibatch_std
from defectgen.networks.synthesis import SynthesisBlock, SynthesisNetwork
from defectgen.ops.masked_add import SURROGATE_STEEPNESS
from defectgen.rng import Noise

GAIN = math.sqrt(2.0)


def fir(channels: int, like: Tensor, gain: float) -> Tensor:
    """[1, 3, 3, 1] x [1, 3, 3, 1] / 64 for every channel, (C, 1, 4, 4)."""
    taps = like.new_tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return (torch.outer(taps, taps) * gain).expand(channels, 1, 4, 4)


class Blur(torch.autograd.Function):
    """Depthwise convolution with the filter; its gradient is :class:`Spread`."""

    @staticmethod
    def forward(ctx, x, padding, stride=1, gain=1.0):
        """(N, C, H, W) -> (N, C, (H + 2 * padding - 4) // stride + 1, likewise W)."""
        ctx.how = x.shape, padding, stride, gain
        kernel = fir(x.shape[1], x, gain)
        return F.conv2d(x, kernel, stride=stride, padding=padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx, dy):
        """Gradient of the features."""
        return Spread.apply(dy, *ctx.how), None, None, None


class Spread(torch.autograd.Function):
    """The transpose of :class:`Blur`, to features of this shape; its gradient is that again.

    Written as what PyTorch computes when it differentiates a convolution: this measured faster
    than ``conv_transpose2d``.
    """

    @staticmethod
    def forward(ctx, y, shape, padding, stride=1, gain=1.0):
        """What Blur gives for features of this shape -> features of this shape."""
        ctx.how = padding, stride, gain
        kernel = fir(shape[1], y, gain)
        two = [stride] * 2, [padding] * 2, [1, 1]
        give = y, y.new_empty(shape), kernel, None, *two, False, [0, 0], shape[1]
        return torch.ops.aten.convolution_backward(*give, [True, False, False])[0]

    @staticmethod
    def backward(ctx, dx):
        """Gradient of the features."""
        return Blur.apply(dx, *ctx.how), None, None, None, None


def double(x: Tensor) -> Tensor:
    """Zero insertion and low-pass, (N, C, H, W) -> (N, C, 2H, 2W)."""
    batch, channels, height, width = x.shape
    return Spread.apply(x, (batch, channels, 2 * height, 2 * width), 1, 2, 4.0)


def finish(y: Tensor, noise: Tensor | None, bias: Tensor, clamp: float | None) -> Tensor:
    """Noise, bias, leaky ReLU, gain, clamp: one pass each, in place where that is allowed."""
    y = y if noise is None else y.add_(noise)
    y = F.leaky_relu_(y.add_(bias.reshape(1, -1, 1, 1)), 0.2)
    if torch.is_grad_enabled():  # the gradient of a leaky ReLU in place needs its result
        y = y * GAIN
        return y if clamp is None else y.clamp(-clamp, clamp)
    y = y.mul_(GAIN)
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

    def _factors(self, styles: Tensor) -> Tensor:
        """1 / sqrt(sum_ikk (weight_oikk * styles_ni)^2 + 1e-8), (N, O)."""
        energy = self.weight.square().sum(dim=(2, 3))
        return (styles.square() @ energy.t() + 1e-8).rsqrt()

    def _shared(self, x: Tensor, styles: Tensor) -> Tensor:
        """Scale, shared convolution, scale."""
        x = x * styles[:, :, None, None]
        scale = self._factors(styles)[:, :, None, None]
        if self.up == 1:
            return F.conv2d(x, self.weight, padding=1) * scale
        y = F.conv_transpose2d(x, self.weight.flip(2, 3).transpose(0, 1), stride=2)
        return Blur.apply(y, 1, 1, 4.0) * scale

    def _grouped(self, x: Tensor, styles: Tensor) -> Tensor:
        """Weights of each sample's own, all samples in one grouped convolution."""
        batch, ins, height, width = x.shape
        factors = self._factors(styles)[:, :, None] * styles[:, None]  # (N, O, I)
        x = x.reshape(1, batch * ins, height, width)
        if self.up == 1:
            own = self.weight * factors[..., None, None]  # (N, O, I, 3, 3)
            y = F.conv2d(x, own.flatten(0, 1), padding=1, groups=batch)
            return y.reshape(batch, -1, height, width)
        turned = self.weight.flip(2, 3).transpose(0, 1).contiguous()
        own = turned * factors.mT[..., None, None]  # (N, I, O, 3, 3)
        y = F.conv_transpose2d(x, own.flatten(0, 1), stride=2, groups=batch)
        return Blur.apply(y.reshape(batch, -1, *y.shape[2:]), 1, 1, 4.0)


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
        if self.base is not None:
            base = self.base(ws[:, 0])
            image = image + (base if residual is None else residual.below(base))
        return image


class TextbookDefectBlock(DefectAwareResBlock):
    """The residual block: conv0, conv1, one after the other."""

    def features(self, x_in: Tensor, ws: Tensor, noise: Noise) -> Tensor:
        """x_in (N, I, r/2, r/2), ws (N, >=2, W) -> (N, C, r, r)."""
        return self.conv1(self.conv0(x_in, ws[:, 0], noise), ws[:, 1], noise)


class TextbookBranch(DefectBranch):
    """Logits doubled step by step; hands out :class:`TextbookPass`."""

    def final_logits(self, x_in: Tensor, ws: Tensor, noise: Noise) -> Tensor:
        """See :meth:`DefectBranch.final_logits`."""
        logits = self.first.logits(self.first.features(x_in, ws, noise), ws[:, 2])
        while logits.shape[-1] < self.final_resolution:
            logits = double(logits)
        return logits

    def start(self, ws: Tensor, noise: Noise, imposed: Tensor | None = None) -> DefectPass:
        """See :meth:`DefectBranch.start`."""
        return TextbookPass(self, ws, noise, imposed)


class TextbookPass(DefectPass):
    """Logits doubled step by step, then comparison, product and sum."""

    def __call__(self, resolution: int, x_in: Tensor | None, x_out: Tensor) -> Tensor:
        """Manipulate ``x_out`` if this resolution is manipulated."""
        branch = self.branch
        if resolution not in branch.resolutions or x_in is None:
            return x_out
        block = branch.block(resolution)
        slot = 2 * branch.resolutions.index(resolution)
        h = block.features(x_in, self.ws[:, slot : slot + 3], self.noise)
        if block.to_mask is not None:
            self.logits = self._here = self.final_logits = block.to_mask(h, self.ws[:, slot + 2])
            while self.final_logits.shape[-1] < branch.final_resolution:
                self.final_logits = double(self.final_logits)
        if self.imposed is not None:
            gate = self.gates[resolution] = self._contained(resolution)
            return x_out + h * gate
        if block.to_mask is None:
            self._here = double(self._here)
        gate = self._here.detach() >= 0
        within = self._contained(resolution) if branch.config.contained else None
        gate = self.gates[resolution] = gate if within is None else gate & within
        y = x_out + h * gate
        if block.gate == "hard":
            return y
        soft = torch.sigmoid(SURROGATE_STEEPNESS * self._here)
        soft = soft if within is None else soft * within
        return y + h.detach() * (soft - soft.detach())


class TextbookConv2d(Conv2d):
    """Convolution of the discriminator: blur, convolution, bias, activation, clamp."""

    def forward(self, x: Tensor, *, gain: float = 1.0) -> Tensor:
        """(N, I, H, W) -> (N, O, H, W) or (N, O, H/2, W/2)."""
        clamp = None if self.clamp is None else self.clamp * gain
        gain = gain * (GAIN if self.act == "lrelu" else 1.0)
        weight = self.weight * (gain / math.sqrt(self.weight[0].numel()))
        bias = None if self.bias is None else self.bias * gain
        size = weight.shape[2]
        if not self.down:
            y = F.conv2d(x, weight, bias, padding=size // 2)
        elif size == 1:
            y = F.conv2d(Blur.apply(x, 1, 2), weight, bias)
        else:
            y = F.conv2d(Blur.apply(x, 2), weight, bias, stride=2)
        y = F.leaky_relu_(y, 0.2) if self.act == "lrelu" else y
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
    DefectBranch: TextbookBranch,
    Conv2d: TextbookConv2d,
    Discriminator: TextbookDiscriminator,
}


def as_textbook(network: nn.Module) -> nn.Module:
    """Turn a network of ours, in place, into its textbook form; the weights stay."""
    for module in network.modules():
        module.__class__ = TEXTBOOK.get(type(module), type(module))
    return network
