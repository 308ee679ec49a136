"""How good generated defects are: every score in one table, beside the yardsticks that judge it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, cast

from torch import Tensor

from defectgen import __version__
from defectgen.backbone import Backbone
from defectgen.backgrounds import GoodImages, read_photos
from defectgen.batch import DefectBatch
from defectgen.checks import check_range
from defectgen.data.images import ImageSet, count_copies
from defectgen.data.sources import ImageSource
from defectgen.errors import ConfigError, DataWarning
from defectgen.messages import say, warn
from defectgen.metrics.change import agreement, drift
from defectgen.metrics.distances import density_coverage, kid, memorization
from defectgen.metrics.diversity import ic_lpips, masked_diversity
from defectgen.metrics.features import Extractor, find_extractor, named
from defectgen.metrics.masks import compare_masks
from defectgen.metrics.paste import copy_paste, windows
from defectgen.metrics.perceptual import Perceptual, st_lpips
from defectgen.metrics.report import PROTOCOLS, Evaluation
from defectgen.metrics.swd import swd_scores
from defectgen.networks.defect import receptive_radius
from defectgen.networks.precision import resolve_precision
from defectgen.real_pairs import RealPairs, settings_of, warn_of_mixtures

if TYPE_CHECKING:
    from defectgen.synthesizer import DefectSynthesizer

_M = TypeVar("_M")


class Evaluated:
    """Gives a synthesizer its method ``evaluate``."""

    def evaluate(
        self,
        real_imgs: ImageSource,
        real_masks: ImageSource,
        *,
        training: tuple[ImageSource, ImageSource] | None = None,
        good_images: GoodImages | None = None,
        n: int = 200,
        seed: int = 0,
        extractor: Extractor | str | None = "auto",
        perceptual: Perceptual | str | None = "auto",
    ) -> Evaluation:
        """Compare samples with real defects that were not trained on.

        Yardsticks stand beside the samples: defects of the training images pasted onto the good
        twins, and the twins alone, taken for defects. A generator is of use where it is nearer to
        the real defects than its twins, and not farther than pasting.

        Args:
            real_imgs: real defects, as for ``fit``; at least 2; KID wants 3, density 6.
            real_masks: their masks.
            training: what ``fit`` got; without it memorization, IC-LPIPS, copy-paste are left out.
            good_images: judge samples on these photos, see `sample`; twins are the photos.
            n: samples to draw.
            seed: of samples and pastes; sample i has the seed + i.
            extractor: features for KID, density, coverage and memorization; "auto" takes those of
                the extra ``metrics`` if it is installed; None leaves these scores out.
            perceptual: distance for diversity; "auto" and None alike.

        Returns:
            The scores; the same for the same arguments.

        Raises:
            NotFittedError: before ``fit``.
            ConfigError: a number is out of bounds, or an extractor is no such thing.
            ImageError, MaskError: listing every unusable file.
        """
        synth = cast("DefectSynthesizer", self)
        check_range("n", n, low=6, integer=True)
        features = _found(extractor, find_extractor, "extractor", synth.verbose)
        distance = _found(perceptual, st_lpips, "perceptual", synth.verbose)
        # Asked first, drawn last: an object that was never fitted says so before files are read.
        shape, photos = synth._fitted()[0].config, _photos(synth, good_images, seed)
        batches = synth.iter_samples(n, return_normals=True, good_images=photos, seed=seed)
        size = side, _ = shape.resolution, shape.channels
        real = RealPairs(real_imgs, real_masks, *size, ("real_imgs", "real_masks"))
        names = "training", "training"
        known = None if training is None else RealPairs(*training, *size, names)
        warn_of_mixtures(synth.config_["data"]["digest"], "real_imgs", real, known)
        _warn_of_test(photos, real)
        images, masks, normals = DefectBatch.concat(list(batches)).triplets()
        drawn = {"generated": (images.float(), masks, normals.float())}
        if known is not None:
            drawn["copy-paste"] = copy_paste(
                known.images, known.masks, normals.float(), n, seed=seed
            )
        table = _Table(real, drawn, known)
        table.masks()
        table.changes(receptive_radius(synth.branch_.resolutions[0], side))
        table.patches()
        if features is not None:
            table.features(features)
        if distance is not None:
            table.diversity(distance)
        settings = {"samples": n, "seed": seed, **settings_of(synth, real, known)}
        if photos is not None:
            settings["good_images_digest"] = photos.digest
        return Evaluation(scores=table.scores, errors=table.errors, settings=settings)


def evaluate_backbone(
    backbone: Backbone, goods: ImageSet, extractor: Extractor, *, n: int = 200, seed: int = 0
) -> Evaluation:
    """Compare good samples with good photos: those of the training, as a rule.

    Args:
        backbone: fitted.
        goods: at least 3 real images: ``load_images("photos/good", resolution=64, channels=3)``.
        extractor: features for KID: ``find_extractor()``.
        n: samples to draw, at least 3.
        seed: sample i has the seed + i.

    Raises:
        NotFittedError: before ``fit``.
        ConfigError: a number is out of bounds.
    """
    check_range("n", n, low=3, integer=True)
    images = backbone.sample(n, seed=seed)
    wanted, found = extractor(goods.images.float() / 255), extractor(images)
    value, error = kid(wanted, found)
    name, patches = named("kid", extractor), swd_scores(goods.images, images)
    known = goods.digest == backbone.config_["data"]["digest"]
    device = backbone.fitted().mapping.w_avg.device
    return Evaluation(
        scores={
            name: {"generated": value},
            "swd": {"real": patches["swd_real"], "generated": patches["swd_generated"]},
        },
        errors={name: {"generated": error}},
        settings={
            "samples": n,
            "seed": seed,
            "real": f"{len(goods.images)} good photos{' of the training' if known else ''}",
            "data": goods.digest,
            "model": backbone.digest(),
            "precision": resolve_precision(backbone.precision, device),
            "defectgen": __version__,
        },
    )


def _photos(synth: DefectSynthesizer, good_images: GoodImages | None, seed: int) -> ImageSet | None:
    """What the samples are drawn on, if on photos."""
    if good_images is None:
        return None
    synth.iter_samples(0, seed=seed)  # a wrong number is told before photos are read
    return read_photos(*synth._fitted(), good_images)


def _warn_of_test(photos: ImageSet | None, real: RealPairs) -> None:
    """Say so if samples are drawn on the defects that judge them."""
    copies = 0 if photos is None else count_copies(photos.images, real.bytes)
    if photos is not None and copies:
        warn(
            f"good_images: parts without a defect; got {copies} of {len(photos.images)} that are "
            "also among real_imgs, so scores mislead; pass others",
            DataWarning,
        )


_Drawn = dict[str, tuple[Tensor, Tensor, Tensor]]


class _Table:
    """Collects scores; ``drawn`` holds images, masks and good twins of each kind of fake."""

    def __init__(self, real: RealPairs, drawn: _Drawn, known: RealPairs | None) -> None:
        self.real, self.drawn, self.known = real, drawn, known
        self.scores: dict[str, dict[str, float]] = {}
        self.errors: dict[str, dict[str, float]] = {}

    def put(self, name: str, column: str, value: float, error: float | None = None) -> None:
        """Keep a number unless it is none."""
        if math.isfinite(value):
            self.scores.setdefault(name, {})[column] = value
            if error is not None and math.isfinite(error):
                self.errors.setdefault(name, {})[column] = error

    def masks(self) -> None:
        """Statistics of masks."""
        sets = {column: masks for column, (_, masks, _) in self.drawn.items()}
        for column, masks in {"real": self.real.masks, **sets}.items():
            for key, value in compare_masks(self.real.masks, masks).items():
                name = key.removesuffix("_generated")
                # Of the real ones only what needs no comparison.
                if name in PROTOCOLS and (column != "real" or name != key):
                    self.put(name, column, value)

    def changes(self, radius: int) -> None:
        """Agreement of masks with what changed, and drift beside them."""
        for column, (images, masks, normals) in self.drawn.items():
            found = {
                **agreement(images, normals, masks, radius),
                **drift(images, normals, masks, radius),
            }
            for name in ("change_iou", "change_leak", "drift_ring", "drift_far"):
                if name in found:
                    self.put(name, column, found[name])

    def patches(self) -> None:
        """Sliced Wasserstein distances."""
        for column, images in self._images().items():
            found = swd_scores(self.real.bytes, images)
            self.put("swd", "real", found["swd_real"])
            self.put("swd", column, found["swd_generated"])

    def features(self, extractor: Extractor) -> None:
        """Distances of features, of whole images and of windows."""
        side = self.real.images.shape[-1] // 2
        views: list[tuple[str, Tensor, dict[str, Tensor]]] = [
            ("kid", self.real.images, self._images()),
            ("kid_window", windows(self.real.images, self.real.masks, side), self._windows(side)),
        ]
        whole: dict[str, Tensor] = {}
        for name, real, sets in views:
            wanted = extractor(real)
            found = {column: extractor(images) for column, images in sets.items()}
            whole = whole or {"real": wanted, **found}
            for column, features in found.items():
                if len(wanted) >= 3:
                    self.put(named(name, extractor), column, *kid(wanted, features))
        for column, features in whole.items():
            if column != "real" and len(whole["real"]) > 5:
                density, coverage = density_coverage(whole["real"], features)
                self.put(named("density", extractor), column, density)
                self.put(named("coverage", extractor), column, coverage)
        if self.known is not None and len(self.known.images) > 1:
            training = extractor(self.known.images)
            for column, features in whole.items():
                share = memorization(features, training, whole["real"])
                self.put(named("memorization", extractor), column, share)

    def diversity(self, perceptual: Perceptual) -> None:
        """Perceptual distances between images."""
        sets = {column: (images, masks) for column, (images, masks, _) in self.drawn.items()}
        sets["real"] = self.real.images, self.real.masks
        for column, (images, masks) in sets.items():
            some = masks.flatten(1).any(1)
            if self.known is not None and column != "real":
                value = ic_lpips(images, self.known.images, perceptual)
                self.put(named("ic_lpips", perceptual), column, value)
            if int(some.sum()) > 1:
                value = masked_diversity(images[some], masks[some], perceptual)
                self.put(named("masked_diversity", perceptual), column, value)

    def _images(self) -> dict[str, Tensor]:
        sets = {column: images for column, (images, _, _) in self.drawn.items()}
        return {**sets, "good twins": self.drawn["generated"][2]}

    def _windows(self, side: int) -> dict[str, Tensor]:
        sets = {c: windows(images, masks, side) for c, (images, masks, _) in self.drawn.items()}
        _, masks, normals = self.drawn["generated"]
        return {**sets, "good twins": windows(normals, masks, side)}


def _found(given: _M | str | None, find: Callable[[], _M], name: str, verbose: int) -> _M | None:
    """What measures: given, found, or nothing, which is said."""
    if given is None or not isinstance(given, str):
        return given
    if given != "auto":
        raise ConfigError(
            f"{name}: 'auto', None, or an object with a name; got {given!r}; see "
            "defectgen.metrics.features."
        )
    try:
        return find()
    except ConfigError as error:
        say(f"scores that need it are left out: {error}", verbose)
        return None
