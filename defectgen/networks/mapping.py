"""The mapping network f: Z -> W with its running mean and truncation (StyleGAN, section 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from defectgen.networks.layers import Linear

#: Decay of the running mean of w, per training forward pass.
W_DECAY = 0.995


class MappingNetwork(nn.Module):
    """z, normalized by its root mean square, through lrelu layers of a hundredth of the rate.

    Attributes:
        w_avg: (W,) running mean of w over training batches, the center of truncation.
    """

    w_avg: Tensor

    def __init__(self, z_dim: int, w_dim: int, layers: int) -> None:
        super().__init__()
        self.z_dim = z_dim
        sizes = [z_dim] + [w_dim] * layers
        self.layers = nn.ModuleList(
            Linear(a, b, act="lrelu", lr_mult=0.01) for a, b in zip(sizes, sizes[1:], strict=False)
        )
        self.register_buffer("w_avg", torch.zeros(w_dim))

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
