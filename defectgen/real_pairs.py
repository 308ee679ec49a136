"""Real pairs by which samples are judged, and what to say where they are no judges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from defectgen import __version__
from defectgen.adapter import synthesizer_tensors
from defectgen.data.images import load_pairs
from defectgen.data.sources import ImageSource
from defectgen.errors import DataWarning
from defectgen.messages import warn
from defectgen.networks.precision import resolve_precision
from defectgen.weights import tensor_digest

if TYPE_CHECKING:
    from defectgen.synthesizer import DefectSynthesizer


class RealPairs:
    """Real pairs as the metrics want them."""

    def __init__(
        self,
        images: ImageSource,
        masks: ImageSource,
        resolution: int,
        channels: int,
        names: tuple[str, str],
    ) -> None:
        size = {"resolution": resolution, "channels": channels}
        pairs = load_pairs(images, masks, **size, names=names)
        self.bytes, self.digest = pairs.images, pairs.digest
        self.images, self.masks = pairs.images.float() / 255, pairs.masks.bool()


def warn_of_mixtures(digest: str, name: str, real: RealPairs, known: RealPairs | None) -> None:
    """Say when what is taken for unseen was trained on, or what for trained on was not.

    Args:
        digest: of the pairs of the fit.
        name: the argument that holds the real pairs.
        real: those that are taken for unseen.
        known: those that are taken for trained on.
    """
    seen = (
        f"{name}: defects that were not trained on; got the pairs of the fit, so the scores say "
        "how well these were learned, not whether samples are of use; pass others"
    )
    other = (
        "training: the pairs of the fit, in their order; got others, so memorization and "
        "copy-paste may be of those; pass what fit got"
    )
    if real.digest == digest:
        warn(seen, DataWarning)
    if known is not None and known.digest != digest:
        warn(other, DataWarning)


def settings_of(
    synth: DefectSynthesizer, real: RealPairs, known: RealPairs | None
) -> dict[str, object]:
    """What was compared with what, for the record."""
    device = synth.backbone_.fitted().mapping.w_avg.device
    return {
        "real": len(real.images),
        "training": 0 if known is None else len(known.images),
        "data": real.digest,
        "model": tensor_digest(synthesizer_tensors(synth)),
        "backbone": synth.backbone_digest_,
        "precision": resolve_precision(synth.precision, device),
        "defectgen": __version__,
    }
