"""How a branch learns to draw a defect into a given mask, wherever it lies.

Shape and appearance are learned apart: masks are those of the training pairs, moved as the product
allows onto places like their own (`defectgen.placement`); the branch is told the mask and learns
what belongs inside, first from every pair under every move, then against two discriminators.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from defectgen import losses
from defectgen.augment.geometry import draw_matrices
from defectgen.augment.policy import AugmentPolicy
from defectgen.moves import MOVES, draw_fields, moves_from
from defectgen.networks.known import LEVELS, KnownDefects, are_regions, coarser, draw_contrast
from defectgen.networks.mapping import CodeMapping, blend
from defectgen.pieces import some_pieces
from defectgen.placement import LEARNING_PLACES, moved_pairs, place_masks
from defectgen.rng import no_noise
from defectgen.training.adversarial import Codes, draw
from defectgen.training.defect_start import defect_codes, object_codes, scenes_of
from defectgen.training.defect_task import DefectTask
from defectgen.training.phases import Batch, Phase, warm_adam


class ImposedTask(DefectTask):
    """Defect training with given masks; see the module."""

    moves: AugmentPolicy
    objects: Codes
    defects: Codes

    def _begin(self, source: torch.Generator) -> dict[str, nn.Module]:
        """Remember the pairs; the objects' codes are learned beside the branch."""
        self.moves = moves_from(self.branch.config.moves)
        mapping, known = cast(CodeMapping, self.branch.mapping), self.known
        starts, keys = defect_codes(self.backbone, self.images, self.masks, source)
        if known.holds(self.masks, self.images):
            starts, keys = mapping.table.detach(), mapping.keys  # goes on with these pairs
        self.defects = Codes.of(mapping, starts, keys)
        objects = object_codes(self.backbone, self.images, self.masks, source)
        self.objects = Codes(objects, keys)
        with torch.no_grad():
            render = self.backbone.synthesis(self.backbone.broadcast(objects), no_noise)
        known.set(self.masks, self.images, scenes_of(self.images, self.masks, render))
        return {"object codes": self.objects}

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        rate, branch = self.config.warm_learning_rate, self.branch
        return {
            **super()._optimizers(),
            "blocks": warm_adam(branch.blocks.parameters(), rate),
            "defect codes": warm_adam(branch.mapping.parameters(), 2 * rate),
            "object codes": warm_adam(self.objects.parameters(), 2 * rate),
        }

    def phases(self) -> list[Phase]:
        """All phases: the reconstruction, then those of the published method."""
        warm = round(self.config.warm_kimg * 1000)
        learned = ("blocks", "defect codes", "object codes")
        first = Phase(
            name="reconstruction", optimizers=learned, loss=self._reconstruction, last=warm
        )
        return [first, *super().phases()]

    def codes(self) -> dict[str, Tensor]:
        """The learned codes of the backgrounds; those of the defects are in the branch."""
        return {"objects": self.objects.table.detach().cpu().clone()}

    def load_codes(self, codes: dict[str, Tensor]) -> None:
        """Continue with the codes of an earlier fit on the same pairs."""
        with torch.no_grad():
            self.objects.table.copy_(codes["objects"])

    @property
    def known(self) -> KnownDefects:
        """The masks of the training pairs."""
        known = self.branch.known
        if known is None:
            raise TypeError(
                "known: a branch with masks; got one with a ToMask head; use DefectTask."
            )
        return known

    def _scene(self, objects: Tensor) -> Tensor | None:
        base = self.backbone.synthesis.base
        return None if base is None else cast(Tensor, base(objects[:, 0]))

    def _draw(self, objects: Tensor, defects: Tensor, masks: Tensor, example: Tensor) -> Tensor:
        """Render these objects with defects that look like the examples."""
        scene, noise = self._scene(objects), self._noise()
        told = (example,) if scene is None else (example, scene)
        hook = self.branch.start(defects, noise, masks, told)
        return cast(Tensor, self.backbone.synthesis(objects, noise, hook))

    def _moved(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Training pairs, or pieces of them, moved at random; where a mask would vanish, not.

        Third which of them are regions, (N,) bool. Their grain stays: examples alone have it
        elsewhere, and what lies beside it is to look as in the photos.
        """
        side, source = self.images.shape[-1], self.state.generator
        masks = some_pieces(self.masks[index], source)
        maps = draw_matrices(self.moves, len(index), side, p=MOVES, generator=source)
        fields = draw_fields(len(index), side, self.branch.config.bend, source)
        texture, large = self.known.texture, are_regions(masks.to(self.images.dtype))
        return *moved_pairs(self.images[index], masks, maps, fields, texture=texture), large

    def _anchor(self, index: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstruction of real pairs: half as they are, on their own background; half moved."""
        half = (len(index) + 1) // 2
        images, masks, large = self.images[index[:half]], self.masks[index[:half]], None
        own = self.backbone.broadcast(self.objects(index[:half], self.state.generator))
        if half < len(index):
            more, moved, large = self._moved(index[half:])
            images, masks = torch.cat([images, more]), torch.cat([masks, moved])
            own = torch.cat([own, self._objects(len(index) - half)])
        defects = self.branch.broadcast(self.defects(index, self.state.generator))
        source = self.state.generator
        levels = torch.randint(LEVELS, (len(index),), generator=source, device=source.device)
        contrast, scene = draw_contrast(len(index), source), self._scene(own)
        parts = (slice(half), None), (slice(half, None), contrast[half:])
        shown = torch.cat(
            [
                self.known.shown(
                    images[part], masks[part], None if scene is None else scene[part], factor, large
                )
                for part, factor in parts
            ]
        )
        images = torch.cat([images[:half], shown[half:]])
        fake = self._draw(own, defects, masks, coarser(shown, masks, levels))
        whole = losses.pyramid_l1(fake[:half], images[:half])
        inside = losses.pyramid_l1(fake, images, masks.to(images.dtype))
        loss = whole + inside
        scalars = {"loss/reconstruction": whole, "loss/inside": inside}
        if self.config.texture_weight:
            channels = images.shape[1]
            filters = draw((8, channels, 5, 5), self.state.generator)
            composite = torch.where(masks, fake, images)
            texture = losses.texture_distance(composite, images, filters, levels=2, window=16)
            texture = texture / masks.float().mean().clamp_min(0.01)
            scalars["loss/texture"] = texture
            loss = loss + self.config.texture_weight * texture
        return loss, scalars

    def _reconstruction(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, scalars = self._anchor(batch.index)
        area = batch.defects.float().mean()
        return loss, {**scalars, "area/fake": area, "area/real": area}

    def _on(self, objects: Tensor) -> Tensor:
        return self._placed(objects)[0]

    def _placed(self, objects: Tensor) -> tuple[Tensor, Tensor]:
        """Fresh defects on these objects, and their masks."""
        source = self.state.generator
        z = draw((len(objects), self.backbone.config.z_dim), source)
        defects = self.branch.broadcast(self.branch.mapping(z, update_mean=True))
        # Not the keys of `defects`, which a run resumed in another process computes anew.
        keys = cast(CodeMapping, self.branch.mapping).keys
        weights, scene = blend(z, keys), self._scene(objects)
        c = self.branch.config
        places = min(c.places, LEARNING_PLACES)
        masks, example = place_masks(
            self.known, self.moves, weights, scene, [source], places, bend=c.bend
        )
        return self._draw(objects, defects, masks, example), masks

    def _fakes(self, count: int) -> tuple[Tensor, Tensor]:
        """Fresh defects on fresh objects, and their masks."""
        return self._placed(self._objects(count))

    def _generator(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        c, count = self.config, len(batch.images)
        fake, masks = self._fakes(count)
        image_loss = self.critic.fooled(fake)
        match_loss = self.match_critic.fooled(fake, masks.to(fake.dtype) * 2 - 1)
        anchor, more = self._anchor(batch.index[: max(2, count // 4)])
        loss = image_loss + c.match_weight * match_loss + c.anchor_weight * anchor
        scalars = {
            "loss/G": image_loss,
            "loss/G_match": match_loss,
            "area/fake": masks.float().mean(),
            "area/real": batch.defects.float().mean(),
        }
        return loss, {**scalars, **more}

    def _seen(self, batch: Batch) -> Batch:
        """Real defects, moved, on renders of other objects: see `DefectTask._seen`."""
        with torch.no_grad():
            images, masks, large = self._moved(batch.index)
            objects = self._objects(len(images))
            background = self.backbone.synthesis(objects, self._noise())
            contrast = draw_contrast(len(images), self.state.generator)
            images = self.known.shown(images, masks, background, contrast, large)
        return replace(batch, images=torch.where(masks, images, background), masks=masks)

    def _discriminator(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            fake, _ = self._fakes(len(batch.images))
        return self.critic.main(fake, None, self._seen(batch), "D")

    def _matching(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            fake, masks = self._fakes(len(batch.images))
        return self.match_critic.main(
            fake, masks.to(fake.dtype) * 2 - 1, self._seen(batch), "D_match"
        )
