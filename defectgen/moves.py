"""Moves of a defect as a product allows them, drawn for the places of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from defectgen.augment.geometry import OPERATIONS, Numbers, compose, draw_numbers
from defectgen.augment.policy import AugmentPolicy
from defectgen.errors import ConfigError
from defectgen.networks.known import draw_contrast
from defectgen.pieces import draw_pieces

#: Probability of each move.
MOVES = 0.9
#: This share of the places tried, the last ones, lie close to the pair's own, half of the others
#: keep the middle of the picture; spread of the small shifts, of the side, and of the binary
#: logarithm of the scale; of the turns, in radians.
NUDGES, NUDGE, TURN = 0.25, 0.05, 0.15
#: Knots per axis of what bends a defect, points of its shifts from knot to knot, and their spread
#: if knots are normally distributed.
BENDS, FINER, CURL = 4, 4, 0.66
#: Spread of the shifts, of the side: where defects follow outlines or a grain, and on parts of
#: which no two are alike.
BEND, FREE_BEND = 0.015, 0.04


def allowed_moves(policy: AugmentPolicy, *, turned: bool) -> str:
    """Names of the operations that may move a mask, joined by commas.

    What the policy grants; and turns, where the place tells whether a turned mask lies where a
    defect may be: on a part, not in a texture.
    """
    granted = {name for name in OPERATIONS if getattr(policy, name)} | (
        {"rotate"} if turned else set()
    )
    return ",".join(name for name in OPERATIONS if name in granted)


def moves_from(names: str) -> AugmentPolicy:
    """The policy of `allowed_moves`.

    Raises:
        ConfigError: a name is not among them.
    """
    chosen = [name for name in names.split(",") if name]
    if not set(chosen) <= set(OPERATIONS):
        raise ConfigError(
            f"moves: must be names out of {', '.join(OPERATIONS)}; got {names!r}; fit again"
        )
    return AugmentPolicy(**{field.name: field.name in chosen for field in fields(AugmentPolicy)})


def draw_fields(count: int, side: int, bend: float, source: torch.Generator) -> Tensor:
    """Shifts in pixels (N, 2, k, k) for `defectgen.augment.warp.warp`; none for some.

    They are the curl of a smooth random function, so what they bend keeps its area, nearly.
    """
    return fields_of(*_draw_knots(count, source), side, bend)


def _draw_knots(count: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Normal knots (N, 1, k, k) and a uniform number (N, 1, 1, 1) for `fields_of`."""
    size = (count, 1, BENDS + 2, BENDS + 2)  # one knot beyond each border
    knots = torch.randn(size, generator=source, device=source.device)
    return knots, torch.rand((count, 1, 1, 1), generator=source, device=source.device)


def fields_of(knots: Tensor, chance: Tensor, side: int, bend: float) -> Tensor:
    """The fields of `draw_fields` that these numbers mean."""
    fine = (BENDS + 1) * FINER + 1
    potential = F.interpolate(knots, size=(fine, fine), mode="bicubic", align_corners=True)
    inner, past, before = (slice(FINER + d, fine - FINER + d) for d in (0, 1, -1))
    shifts = (
        potential[..., past, inner] - potential[..., before, inner],
        potential[..., inner, before] - potential[..., inner, past],
    )
    bent = torch.cat(shifts, 1) * (bend * side / CURL)
    return torch.where(chance < MOVES, bent, torch.zeros_like(bent))


class Nudges(NamedTuple):
    """What decides about n small moves: standard normal numbers, and factors."""

    normal: Tensor  # (n, 4)
    sizes: Tensor  # (n,)


def draw_nudges(count: int, source: torch.Generator) -> Nudges:
    """Numbers for `nudges_of`."""
    normal = torch.randn((count, 4), generator=source, device=source.device)
    return Nudges(normal, torch.exp2(normal[:, 0] * NUDGE))  # as in `draw_numbers`


def nudges_of(policy: AugmentPolicy, drawn: Nudges, side: int) -> Tensor:
    """Inverse maps (N, 3, 3) of small moves: near the own place a mask nearly always fits."""
    size = drawn.sizes if policy.scale else torch.ones_like(drawn.sizes)
    angle = drawn.normal[:, 1] * (TURN if policy.rotate else 0.0)
    shifted = policy.translate_int or policy.translate_frac
    maps = torch.eye(3, device=size.device).repeat(len(size), 1, 1)
    maps[:, 0, 0] = maps[:, 1, 1] = size * angle.cos()
    maps[:, 0, 1], maps[:, 1, 0] = -size * angle.sin(), size * angle.sin()
    shift = drawn.normal[:, 2:] * (NUDGE * side if shifted else 0.0)
    maps[:, :2, 2] = shift if policy.translate_frac else shift.round()
    return maps


class Tries(NamedTuple):
    """What is drawn for one sample, or for several side by side: numbers alone."""

    pairs: Tensor  # (places,)
    nudges: Nudges
    anywhere: Numbers
    turns: Numbers
    knots: Tensor  # (1, 1, k, k)
    chance: Tensor  # (1, 1, 1, 1)
    contrast: Tensor  # (1,)
    pieces: Tensor  # (places, S * S + 1) bool


def draw_tries(weights: Tensor, places: int, source: torch.Generator) -> Tries:
    """Numbers for one sample, drawn on the generator's device: a seed means the same anywhere."""
    pairs = torch.multinomial(weights.to(source.device), places, True, generator=source)
    pairs[-1] = pairs[0]
    count = max(1, round(NUDGES * places))
    nudges, turned = draw_nudges(count, source), (places - count) // 2
    anywhere, turns = draw_numbers(places - count - turned, source), draw_numbers(turned, source)
    knots, contrast = _draw_knots(1, source), draw_contrast(1, source)
    return Tries(pairs, nudges, anywhere, turns, *knots, contrast, draw_pieces(places, source))


def joined(parts: Sequence[Any]) -> Any:
    """Tensors, or tuples of them, of several samples side by side."""
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    return type(parts[0])(*(joined(part) for part in zip(*parts, strict=True)))


def maps_of(policy: AugmentPolicy, drawn: Tries, side: int) -> Tensor:
    """Inverse maps (N * places, 3, 3) of samples: moves anywhere, those about the middle, nudges.

    Computed for all at once, to the bit as for each by itself.
    """
    samples = len(drawn.contrast)
    # A part in a fixed pose may be round: its defects go around its middle.
    about = replace(policy, translate_int=False, translate_frac=False)
    kinds = (
        compose(policy, drawn.anywhere, side, p=MOVES),
        compose(about, drawn.turns, side, p=MOVES),
        nudges_of(policy, drawn.nudges, side),
    )
    maps = torch.cat([some.reshape(samples, len(some) // samples, 3, 3) for some in kinds], 1)
    maps[:, -1] = torch.eye(3)  # if nothing else keeps the defect in the picture
    return maps.flatten(0, 1)
