"""Operators: one file per op, the public function above its plain PyTorch reference.

Every op is a function of tensors only, differentiable to second order, and works on any device
and floating dtype. Native kernels stand behind the same public functions; `use_kernels` and
the environment variable DEFECTGEN_KERNELS choose between them and plain PyTorch.
"""

from defectgen.ops._dispatch import use_kernels
from defectgen.ops.bias_act import bias_act
from defectgen.ops.masked_add import masked_add
from defectgen.ops.modulated_conv2d import modulated_conv2d
from defectgen.ops.upfirdn2d import downsample2d, upfirdn2d, upsample2d

__all__ = [
    "bias_act",
    "downsample2d",
    "masked_add",
    "modulated_conv2d",
    "upfirdn2d",
    "upsample2d",
    "use_kernels",
]
