"""The mapping network f: Z -> W with its running mean and truncation (StyleGAN, section 2)."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defectgen.errors import ConfigError
from defectgen.networks.layers import Linear

#: A mapping network of more layers is none that anybody trained.
MAX_LAYERS = 64
#: Decay of the running mean of w, per training forward pass.
W_DECAY = 0.995


#: Sharpness of the map from z to codes: large picks one code, small blends many.
SHARPNESS = 12.0


def blend(z: Tensor, keys: Tensor) -> Tensor:
    """How much of each code is in z: softmax(beta * <key_i, z>), (N, Z), (n, Z) -> (N, n).

    z is scaled to length sqrt(Z); keys are rows of one length, which sharpens as beta does.
    """
    z = F.normalize(z, dim=1) * z.shape[1] ** 0.5
    return torch.softmax(SHARPNESS * (z @ keys.t()), dim=1)


class CodeMapping(nn.Module):
    """z to a blend of learned codes: for few images, whose codes lie apart from each other.

    Nadaraya-Watson regression (1964) with a kernel on the sphere; a network of some layers, fitted
    to the same map, blurs it.

    Attributes:
        table: (n, W), one learned code for each training image.
        keys: (n, Z), fixed, of one length: images that look alike have keys that lie close.
        w_avg: as of `MappingNetwork`.
    """

    keys: Tensor
    w_avg: Tensor

    def __init__(self, z_dim: int, w_dim: int, codes: int) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.table = nn.Parameter(torch.zeros(codes, w_dim))
        self.register_buffer("keys", torch.zeros(codes, z_dim))
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor, *, psi: float = 1.0, update_mean: bool = False) -> Tensor:
        """z (N, Z) -> w (N, W); arguments as of `MappingNetwork`."""
        w = blend(z, self.keys) @ self.table
        if update_mean:
            self.w_avg.lerp_(w.detach().mean(dim=0), 1 - W_DECAY)
        return w if psi == 1.0 else torch.lerp(self.w_avg, w, psi)


class MappingNetwork(nn.Module):
    """z, normalized by its root mean square, through lrelu layers of a hundredth of the rate.

    With 0 layers the map is linear: w is as normal as z.

    Attributes:
        w_avg: (W,) running mean of w over training batches, the center of truncation.
    """

    w_avg: Tensor

    def __init__(self, z_dim: int, w_dim: int, layers: int) -> None:
        super().__init__()
        self.z_dim = z_dim
        if not 0 <= layers <= MAX_LAYERS:
            raise ConfigError(
                f"mapping_layers: from 0 to {MAX_LAYERS}; got {layers}; take 2, or 8 for variety"
            )
        sizes, act = [z_dim] + [w_dim] * max(1, layers), "lrelu" if layers else "linear"
        self.layers = nn.ModuleList(
            Linear(a, b, act=act, lr_mult=0.01) for a, b in zip(sizes, sizes[1:], strict=False)
        )
        self.register_buffer("w_avg", torch.zeros(w_dim))

    @torch.no_grad()
    def set(self, matrix: Tensor, mean: Tensor) -> None:
        """Be the linear map mean (W,) + z @ matrix (Z, W); for 0 layers only."""
        layer = cast(Linear, self.layers[0])
        layer.weight.copy_(matrix.t() * (matrix.shape[0] ** 0.5 / layer.lr_mult))
        layer.bias.copy_(mean / layer.lr_mult)
        self.w_avg.copy_(mean)

    def forward(self, z: Tensor, *, psi: float = 1.0, update_mean: bool = False) -> Tensor:
        """z (N, Z) -> w (N, W), pulled towards the mean by w_avg + psi * (w - w_avg).

        ``update_mean`` moves the running mean (training only).
        """
        w = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.layers:
            w = layer(w)
        if update_mean:
            self.w_avg.lerp_(w.detach().mean(dim=0), 1 - W_DECAY)
        return w if psi == 1.0 else torch.lerp(self.w_avg, w, psi)


def mix_styles(
    ws: Tensor,  # (N, L, W)
    other: Tensor,  # (N, W)
    probability: float,
    generator: torch.Generator,
) -> Tensor:
    """Style mixing: with this probability all layers from a random one up take the other latent.

    One draw per batch, the crossover uniform in 1..L-1 (StyleGAN, section 3.1).
    """
    device = generator.device
    draw = torch.rand((), generator=generator, device=device)
    cut = int(torch.randint(1, ws.shape[1], (), generator=generator, device=device))
    if float(draw) >= probability:
        return ws
    return torch.cat([ws[:, :cut], other.unsqueeze(1).expand(-1, ws.shape[1] - cut, -1)], dim=1)
