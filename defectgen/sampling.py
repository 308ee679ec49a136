"""Seeds to pictures: good parts, and defective parts with mask and good twin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from defectgen.backgrounds import Backgrounds, learned_by
from defectgen.batch import DefectBatch
from defectgen.data.images import ImageSet, PairSet
from defectgen.memory import kept_memory
from defectgen.morphology import dilated
from defectgen.moves import moves_from
from defectgen.networks.defect import DefectBranch, DefectPass, receptive_radius
from defectgen.networks.known import KnownDefects
from defectgen.networks.layers import constant_weights
from defectgen.networks.mapping import CodeMapping, blend
from defectgen.networks.precision import in_precision, resolve_precision
from defectgen.networks.synthesis import Generator
from defectgen.placement import place_masks
from defectgen.rng import SampleNoise, generator, latents, sample_seeds
from defectgen.seams import place_on_photos
from defectgen.sheet import SheetRow, contact_sheet

#: Samples per forward pass unless the caller decides; results do not depend on it.
SAMPLE_BATCH = 16
#: Photos, or good parts, tried for each defect where the backbone has not learned the product.
PHOTOS = 8


def to_unit(images: Tensor) -> Tensor:
    """[-1, 1] -> clamped [0, 1] on the CPU."""
    return ((images.float() + 1) / 2).clamp(0, 1).cpu()


@torch.no_grad()
def draw_good(
    network: Generator, seeds: Sequence[int], psi: float, precision: str | None = None
) -> Tensor:
    """Good parts of these seeds, float32 (n, C, R, R) in [0, 1], on the CPU.

    ``precision``: None computes as the context does.
    """
    device = network.mapping.w_avg.device
    parts = []
    asked = None if precision is None else resolve_precision(precision, device)
    computing = nullcontext() if asked is None else in_precision(asked)
    with kept_memory(), constant_weights(network), computing:
        for first in range(0, len(seeds), SAMPLE_BATCH):
            some = seeds[first : first + SAMPLE_BATCH]
            parts.append(to_unit(_good(network, some, psi)))
    side, channels = network.config.resolution, network.config.channels
    return torch.cat(parts) if parts else torch.zeros(0, channels, side, side)


def _good(network: Generator, seeds: Sequence[int], psi: float) -> Tensor:
    """Good parts of these seeds, (N, C, R, R), about in [-1, 1]."""
    z = latents(seeds, network.config.z_dim, "object").to(network.mapping.w_avg.device)
    return cast(Tensor, network(z, SampleNoise(seeds), psi=psi))


class OwnGoods:
    """Good parts that the backbone draws, for a defect to find the one on which it fits."""

    def __init__(self, network: Generator, psi: float) -> None:
        self.network, self.psi = network, psi

    def picked(self, seeds: Sequence[int], turn: int = 0) -> list[int]:
        """The seed of a good part for each sample: its own one, or drawn by it for a turn."""
        if not turn:
            return list(seeds)
        sources = (generator(k, "background", turn) for k in seeds)
        return [int(torch.randint(2**62, (), generator=source)) for source in sources]

    def signed(self, index: Sequence[int]) -> Tensor:
        """The good parts of these seeds in [-1, 1], (N, C, R, R)."""
        return _good(self.network, index, self.psi).clamp(-1.0, 1.0)


@torch.no_grad()
def draw_defects(
    network: Generator,
    branch: DefectBranch,
    seeds: Sequence[int],
    psi: float,
    *,
    normals: bool,
    backgrounds: Backgrounds | None = None,
    by_branch: bool = False,
) -> DefectBatch:
    """One batch: the same object latents and noise with and without the defect.

    With ``backgrounds`` the defects stand on these photos, which are then the twins. Where the
    backbone has not learned the product, each finds one of several good parts on which it fits;
    ``by_branch``, the branch draws it even there.
    """
    device = network.mapping.w_avg.device
    if not seeds:
        side, channels = network.config.resolution, network.config.channels
        nothing = torch.zeros(0, channels, side, side)
        return DefectBatch(
            nothing, torch.zeros(0, 1, side, side, dtype=torch.bool), nothing if normals else None
        )
    if backgrounds is not None:
        return _drawn_on(backgrounds, network, branch, seeds, psi, normals)
    if not by_branch and branch.known is not None and not learned_by(network, branch.known):
        return _on_best(OwnGoods(network, psi), network, branch, seeds, normals)[0]
    z = latents(seeds, network.config.z_dim, "object").to(device)
    ws, noise = network.broadcast(network.mapping(z, psi=psi)), SampleNoise(seeds)
    hook = _planned(network, branch, seeds, psi, ws, None)
    image = network.synthesis(ws, noise, hook)
    twin = to_unit(network.synthesis(ws, noise)) if normals else None
    return DefectBatch(to_unit(image), hook.mask.cpu(), twin, None, tuple(seeds))


def _drawn_on(
    backgrounds: Backgrounds,
    network: Generator,
    branch: DefectBranch,
    seeds: Sequence[int],
    psi: float,
    normals: bool,
) -> DefectBatch:
    """Defects on photos: whole inside their masks; beside these what they change is added."""
    if backgrounds.learned:
        picked = backgrounds.picked(seeds)
        ground = backgrounds.signed(picked)
        ws, noise = network.broadcast(backgrounds.objects[picked]), SampleNoise(seeds)
        hook = _planned(network, branch, seeds, psi, ws, ground)
        image = network.synthesis(ws, noise, hook)
        change = image - network.synthesis(ws, noise)
        # Beyond the reach nothing changes, up to what the convolutions of a device may round.
        radius = receptive_radius(branch.resolutions[0], network.config.resolution)
        masks, beside = hook.mask, change * dilated(hook.mask.to(image.dtype), radius)
        image = torch.where(masks, image, ground + beside)
        twin = to_unit(ground) if normals else None
        batch = DefectBatch(to_unit(image), masks.cpu(), twin, None, tuple(seeds))
    else:
        batch, picked = _on_best(backgrounds, network, branch, seeds, normals)
    return replace(batch, backgrounds=tuple(backgrounds.names[k] for k in picked))


def _on_best(
    grounds: Backgrounds | OwnGoods,
    network: Generator,
    branch: DefectBranch,
    seeds: Sequence[int],
    normals: bool,
) -> tuple[DefectBatch, list[int]]:
    """Of several grounds for each sample that on which its defect fits, and the defect.

    For a product of which no two photos show the same things in the same places. A render would
    show through the defect what lies elsewhere.
    """
    z = latents(seeds, network.config.z_dim, "defect").to(network.mapping.w_avg.device)
    turns = zip(*(grounds.picked(seeds, turn) for turn in range(PHOTOS)), strict=True)
    choices = [list(dict.fromkeys(some)) for some in turns]  # each ground once
    shown = (grounds.signed(some) for some in choices)
    placing = _placing(branch, seeds, z)
    (masks, examples), taken, ground = place_on_photos(photos=shown, **placing)
    picked = [some[turn] for some, turn in zip(choices, taken.tolist(), strict=True)]
    image = to_unit(torch.where(masks, examples, ground))
    twin = to_unit(ground) if normals else None
    return DefectBatch(image, masks.cpu(), twin, None, tuple(seeds)), picked


def _planned(
    network: Generator,
    branch: DefectBranch,
    seeds: Sequence[int],
    psi: float,
    ws: Tensor,
    ground: Tensor | None,
) -> DefectPass:
    """The hook for a pass of these objects (N, L, W): which defects, and where they lie.

    ``ground`` (N, C, R, R): what they are placed on; None takes the base image of the objects.
    """
    z = latents(seeds, network.config.z_dim, "defect").to(ws.device)
    defects, noise = branch.broadcast(branch.mapping(z, psi=psi)), SampleNoise(seeds)
    if branch.known is None:
        return branch.start(defects, noise)
    base = network.synthesis.base
    scene = None if base is None else base(ws[:, 0])
    here = scene if ground is None else ground
    masks, example = place_masks(scenes=here, **_placing(branch, seeds, z))
    return branch.start(defects, noise, masks, (example,) if scene is None else (example, scene))


def _placing(branch: DefectBranch, seeds: Sequence[int], z: Tensor) -> dict[str, Any]:
    """What decides about places, of a branch that knows some, for defects z (N, Z)."""
    c = branch.config
    return {
        "known": cast(KnownDefects, branch.known),
        "policy": moves_from(c.moves),
        "weights": blend(z, cast(CodeMapping, branch.mapping).keys),
        "sources": [generator(seed, "place") for seed in seeds],
        "places": c.places,
        "bend": c.bend,
    }


def iter_defects(
    network: Generator,
    branch: DefectBranch,
    seeds: Sequence[int],
    psi: float,
    *,
    normals: bool,
    batch_size: int,
    precision: str = "fp32",
    backgrounds: Backgrounds | None = None,
    by_branch: bool = False,
) -> Iterator[DefectBatch]:
    """All batches of these seeds; what they share is computed once and kept until the last."""
    # Here and not at the first batch, so that a wrong name is told where it was given.
    precision = resolve_precision(precision, network.mapping.w_avg.device)
    firsts = range(0, len(seeds), batch_size)
    if not by_branch and backgrounds is None and branch.known is not None:
        learned_by(network, branch.known)  # once, in full precision, before workers are made

    def draw() -> Iterator[DefectBatch]:
        with kept_memory(), constant_weights(network, branch):
            for some in (seeds[first : first + batch_size] for first in firsts):
                # Not around the yield: whoever takes the batch computes as he likes.
                with in_precision(precision):
                    batch = draw_defects(
                        network,
                        branch,
                        some,
                        psi,
                        normals=normals,
                        backgrounds=backgrounds,
                        by_branch=by_branch,
                    )
                yield batch

    return draw()


def backbone_sheet(path: Path, network: Generator, data: ImageSet) -> None:
    """Contact sheet of a running backbone: good images above, samples of fixed seeds below."""
    rows = [
        SheetRow("good images", data.images[:16]),
        SheetRow("generated", draw_good(network, sample_seeds(32, 0), 1.0)),
    ]
    contact_sheet(rows, path, columns=8)


def defect_sheet(path: Path, network: Generator, branch: DefectBranch, pairs: PairSet) -> None:
    """Contact sheet of a running branch: real pairs, samples of fixed seeds, their good twins."""
    batch = draw_defects(network, branch, sample_seeds(16, 0), 1.0, normals=True)
    images, masks, normals = batch.triplets()
    rows = [
        SheetRow("real defects", pairs.images[:16], pairs.masks[:16].bool()),
        SheetRow("generated", images, masks),
        SheetRow("generated, without outline", images),
        SheetRow("the same without defect", normals),
    ]
    contact_sheet(rows, path, columns=8)
