"""A finished experiment published under its name of the zoo: all of it, or the list stays."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from defectgen.adapter import synthesizer_tensors
from defectgen.backbone import Backbone
from defectgen.errors import DefectGenError, WeightsError
from defectgen.evaluation import evaluate_backbone
from defectgen.experiment import SAMPLES, Experiment, Photos
from defectgen.files import sha256_file
from defectgen.hub import HubOptions, check_seen, fetched
from defectgen.hub.sums import SUMS_FILE
from defectgen.messages import say
from defectgen.metrics.features import find_extractor
from defectgen.metrics.report import Evaluation
from defectgen.publish_checks import (
    begun_settings,
    check_finished,
    check_terms,
    check_writable,
    checked_weights,
)
from defectgen.registry import PublishedBranch, ZooRecord, write_record, zoo_path, zoo_record
from defectgen.synthesizer import DefectSynthesizer
from defectgen.weights import tensor_digest
from defectgen.zoo import check_types, photos_of


class Terms(NamedTuple):
    """Where weights go, and under which terms.

    Attributes:
        license: of the weights, as hubs name it: "cc-by-nc-sa-4.0".
        repo_id: of the backbone; those of the branches begin like it.
        private: whether the repositories are seen by their owner only.
    """

    license: str
    repo_id: str
    private: bool = False


class _Scores(NamedTuple):
    """What was measured before anything is sent."""

    backbone: Evaluation
    branches: dict[str, Evaluation]


def publish(
    name: str, data: Path, folder: Path, terms: Terms, *, device: str | None = None
) -> ZooRecord:
    """Evaluate a finished experiment, push backbone and branches with cards, and pin them.

    What can be wrong is found before anything is sent. Scores are computed now, on photos that
    the branches have not learned. What was pushed is downloaded and loaded before the entry of the
    list in use names it, in one write; if anything fails before, the list stays as it was. The
    token is the one that the hub's client knows, such as that of HF_TOKEN.

    Args:
        name: of a category of the zoo.
        data: the data set, see `defectgen.zoo.photos_of`.
        folder: of the experiment, written by `defectgen.zoo.train`.
        terms: license and repositories.
        device: torch device.

    Returns:
        The new entry.

    Raises:
        WeightsError: the name is not in the list, weights cannot be loaded, or the hub refuses.
        ConfigError: the license is not that of non-commercial photos, the list cannot be written,
            the experiment is unfinished, or not that of the entry and these photos, or a repository
            is there already and private where it should be public, or public where private, or
            the token may not write to it.
        ImageError, MaskError: as `photos_of`.
    """
    record = zoo_record(name)
    check_terms(record, terms.license, terms.repo_id)
    check_writable(zoo_path())
    extractor = find_extractor()
    settings = begun_settings(record, data, folder, device)
    photos = photos_of(record, data)
    check_types(record, photos.defects)
    experiment = Experiment(
        name,
        Photos(photos.train_good, photos.defects),
        folder,
        channels=record.channels,
        augment=record.augment,
        settings=settings,
    )
    experiment.check_settings()
    check_finished(experiment, record, data)
    backbone = checked_weights(experiment, record)
    targets = [record.branch_repo(defect, terms.repo_id) for defect in experiment.splits]
    check_seen([terms.repo_id, *targets], terms.private, None)
    goods, seed = experiment.goods, settings.seed
    count = experiment.settings.samples or SAMPLES
    scores = _Scores(
        evaluate_backbone(backbone, goods, extractor, n=count, seed=seed),
        {
            defect: experiment.evaluate(experiment.branch(backbone, defect), defect)
            for defect in experiment.splits
        },
    )
    return _push(experiment, record, backbone, scores, terms)


def repository(record: ZooRecord, namespace: str | None, repo_id: str | None) -> str:
    """The repository that was named, the entry's under another owner, or the entry's."""
    if repo_id is not None:
        return repo_id
    if namespace is not None:
        return f"{namespace}/{record.repo_id.partition('/')[2]}"
    return record.repo_id


# -- sending ---------------------------------------------------------------------------------------


def _push(
    experiment: Experiment, record: ZooRecord, backbone: Backbone, scores: _Scores, terms: Terms
) -> ZooRecord:
    """Push all, pin all, and write the entry last."""
    pushed: list[str] = []
    try:
        with TemporaryDirectory() as cache:
            entry = _pinned(experiment, record, backbone, scores, terms, cache, pushed)
            write_record(entry)
    except BaseException as error:
        if not pushed:
            raise
        told = (
            "the list is as it was, so that no entry names what was pushed before "
            f"({', '.join(pushed)}): give the command again"
        )
        if isinstance(error, (DefectGenError, OSError)):
            raise WeightsError(f"{error}; {told}") from error
        say(f"publish: {told}", 1)  # an interrupt, or an error of another library
        raise
    return entry


def _pinned(
    experiment: Experiment,
    record: ZooRecord,
    backbone: Backbone,
    scores: _Scores,
    terms: Terms,
    cache: str,
    pushed: list[str],
) -> ZooRecord:
    """Push backbone and branches, and load each as it was pushed; ``pushed`` grows with each."""
    license_, base, private = terms
    device = experiment.settings.device
    goods = f"{len(experiment.goods.images)} good photos"
    commit = backbone.push_to_hub(
        base,
        license=license_,
        training_data=_told(record, f"Learned from {goods}"),
        evaluation=scores.backbone,
        private=private,
    )
    pushed.append(f"{base} at {commit}")
    # What is public must come without a token too.
    how: dict[str, Any] = {"cache_dir": cache, "token": None if private else False}
    there = Backbone.from_pretrained(base, revision=commit, device=device, **how)
    _check_same(base, there.digest(), scores.backbone)
    sums = _sums(base, "backbone", HubOptions(revision=commit, **how))
    branches = {}
    for defect, (pairs, _) in experiment.splits.items():
        synth = experiment.branch(backbone, defect)
        synth.backbone_ = there  # so that the branch names its repository
        repo_id = record.branch_repo(defect, base)
        photos = f"Learned from {len(pairs.images)} photos of the defect {defect!r} with masks"
        at = synth.push_to_hub(
            repo_id,
            license=license_,
            training_data=_told(record, f"{photos}, its backbone from {goods},"),
            evaluation=scores.branches[defect],
            private=private,
        )
        pushed.append(f"{repo_id} at {at}")
        back = DefectSynthesizer.from_pretrained(repo_id, revision=at, device=device, **how)
        _check_same(repo_id, tensor_digest(synthesizer_tensors(back)), scores.branches[defect])
        digest = _sums(repo_id, "synthesizer", HubOptions(revision=at, **how))
        branches[defect] = PublishedBranch(repo_id, at, digest)
    return record.published_as(commit, sums, repo_id=base, branches=branches)


def _check_same(repo_id: str, digest: str, evaluation: Evaluation) -> None:
    """Refuse to pin other weights than those that were evaluated."""
    if digest != evaluation.settings["model"]:
        raise WeightsError(
            f"hub: must hold what was pushed to {repo_id}; got other weights at that commit; "
            "check who else writes there"
        )


def _told(record: ZooRecord, learned: str) -> str:
    """What a card says of the photos."""
    return (
        f"{learned} of the category {record.category} of {record.data}. License of the photos: "
        f"{record.data_license}. Their owners ask to be cited: {record.citation}."
    )


def _sums(repo_id: str, kind: str, options: HubOptions) -> str:
    """The sha256 of the list of sums of what was pushed."""
    with fetched(repo_id, kind, options) as found:
        return f"sha256:{sha256_file(found.folder / SUMS_FILE)}"
