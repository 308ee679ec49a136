"""What each score of an evaluation is, and the table of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

#: Columns of the table.
SETS = ("real", "generated", "copy-paste", "good twins")
#: What each score is, by its name without the extractor; reports print these lines.
PROTOCOLS = {
    "area": "mean share of the pixels that masks cover",
    "area_ratio": "mean area through that of the real masks",
    "empty_masks": "share of masks without any pixel",
    "full_masks": "share of masks that cover everything",
    "components": "mean number of 8-connected pieces of a mask",
    "aspect": "geometric mean of length through width of the largest piece",
    "border": "mean share of a mask's pixels on the outermost ring of the image",
    "contact": "share of masks with a pixel there",
    "position_overlap": "overlap of the position maps (8 x 8 cells) with that of the real masks",
    "change_iou": "intersection over union of mask and pixels that differ from the good twin by "
    "more than 8/255 (mean over channels), mean over samples where either has one",
    "change_leak": "share of these pixels farther from the mask than the receptive radius",
    "drift_ring": "mean difference from the good twin within that radius, gray levels of 255",
    "drift_far": "mean difference from the good twin beyond it, gray levels of 255",
    "swd": "sliced Wasserstein distance x 1000 to one half of the real images; real: the halves",
    "kid": "kernel distance x 1000 of whole images to the real ones, unbiased, jackknife error",
    "kid_window": "the same of windows of half the side around the masks; good twins at the places "
    "of the generated masks",
    "density": "mean number of real balls (to the fifth neighbor) an image lies in, over 5",
    "coverage": "share of real balls that hold an image; falls with fewer images",
    "memorization": "share of images at most as far from a training image as the 5th percentile of "
    "distances from real images, these and the training's, to their nearest other one; unseen "
    "photos have about 2 N / n^2 of N training and n real images in all, while n is at most 21; "
    "good twins hold no copied defect, so what they have is no sign of copying",
    "ic_lpips": "mean perceptual distance within clusters around the training images, corrected "
    "form: up to 200 a cluster, clusters of at least two",
    "masked_diversity": "mean perceptual distance of pairs inside the union of their masks",
}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of a synthesizer.

    Attributes:
        scores: name -> column of `SETS` -> number; what is undefined or was not asked for is
            left out. A name with "@" ends in the network that measured.
        errors: the same for standard errors, where a score has one.
        settings: how many images of each kind, seed, precision, version, and the digests of the
            real pairs, the synthesizer and its backbone.
    """

    scores: dict[str, dict[str, float]]
    errors: dict[str, dict[str, float]]
    settings: dict[str, Any]

    def table(self) -> str:
        """Scores and their protocols in Markdown."""
        head = f"| score | {' | '.join(SETS)} |\n|---|{'---:|' * len(SETS)}"
        rows = []
        for name in self.scores:
            cells = [self._cell(name, column) for column in SETS]
            rows.append(f"| {name} | {' | '.join(cells)} |")
        used = dict.fromkeys(name.partition("@")[0] for name in self.scores)
        notes = [f"- **{name}**: {PROTOCOLS[name]}." for name in used]
        facts = ", ".join(f"{key} {value}" for key, value in self.settings.items())
        return "\n".join([head, *rows, "", *notes, "", f"Settings: {facts}."])

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)

    def _cell(self, name: str, column: str) -> str:
        value = self.scores[name].get(column)
        if value is None:
            return ""
        error = self.errors.get(name, {}).get(column)
        return f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g}"
