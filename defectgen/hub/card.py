"""The model card: what a stranger has to know before using weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from defectgen import __version__
from defectgen.errors import ConfigError
from defectgen.metrics.report import Evaluation

CARD_FILE, SHEET_FILE = "README.md", "samples.png"
# Longer names of classes, for the text.
_CLASSES = {"backbone": "Backbone", "synthesizer": "DefectSynthesizer"}
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")

_SNIPPETS = {
    "backbone": """from defectgen import Backbone

backbone = Backbone.from_pretrained({name!r}, revision="main")
images = backbone.sample(16, seed=0)  # float32 (16, {channels}, {side}, {side}) in [0, 1]""",
    "synthesizer": """from defectgen import DefectSynthesizer

synthesizer = DefectSynthesizer.from_pretrained({name!r}, revision="main")
images, masks = synthesizer.sample(16, return_masks=True, seed=0)""",
}
_LIMITS = {
    "backbone": """- It draws one product, as in its photos, at {side} px, and nothing else.
- It draws good parts; defects are learned on top of it.""",
    "synthesizer": """- It draws one type of defect on one product at {side} px, and nothing else.
- It draws what its few photos show, moved and varied: no kind of defect that is not among them.
- Synthetic defects are for training. Test an inspection on real ones, which it has not seen.""",
}
_LIMITS_OF_ALL = """- How often something is drawn says nothing about how often it occurs.
- The license above is that of these weights as their publisher states it. Weights, and pictures
  drawn with them, may inherit terms of the training data."""


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card tells.

    Attributes:
        kind: "backbone" or "synthesizer".
        license: of the weights, as hubs name it: "cc-by-4.0", "other".
        training_data: what the photos are, where they come from, their terms; None: not told.
        evaluation: scores with their protocol, or None.
        config: what was decided: ``config_`` of the object.
        digest: of all tensors.
        holds: which photos of the training can be taken out of the weights, in one sentence.
        base: repository of the backbone, or None.
    """

    kind: str
    license: str
    training_data: str | None
    evaluation: Evaluation | None
    config: Mapping[str, Any]
    digest: str
    holds: str
    base: str | None = None


def check_license(license: str) -> str:  # noqa: A002  # the public name of the argument
    """Return the identifier of a license.

    Raises:
        ConfigError: it is no such identifier.
    """
    if not isinstance(license, str) or not _LICENSE.fullmatch(license):
        raise ConfigError(
            "license: must be an identifier such as 'apache-2.0', 'cc-by-nc-sa-4.0' or 'other', in "
            f"lower case; got {license!r}; choose what the training data allow"
        )
    return license


def check_evaluation(evaluation: Evaluation | None, digest: str) -> None:
    """Raise ConfigError for an evaluation of other weights than those of this digest."""
    if evaluation is not None and evaluation.settings.get("model") != digest:
        raise ConfigError(
            "evaluation: of these weights; got one of others; call evaluate of this object."
        )


def model_card(repo_id: str, facts: CardFacts) -> str:
    """Return the text of README.md.

    Args:
        repo_id: "owner/name", checked.
        facts: what to tell.
    """
    shape = facts.config["backbone"]
    told = {
        "name": repo_id,
        "side": shape["resolution"],
        "channels": shape["channels"],
    }
    parts = [
        _head(facts),
        f"# {repo_id}",
        f"Weights of a `{_CLASSES[facts.kind]}` of defectgen {__version__}, which learns defects "
        "from about ten photos and draws labelled pictures of them.",
        f"![Samples of the seeds 0 to 15]({SHEET_FILE})",
        "## Use",
        f"```python\n{_SNIPPETS[facts.kind].format(**told)}\n```",
        "A branch can move: put the commit you have tested in place of it.",
        "## Training data",
        facts.training_data or "The publisher does not say where the photos come from.",
        _lines(facts.config.get("data", {})),
        f"**{facts.holds}**",
        "## Metrics",
        "Not measured." if facts.evaluation is None else facts.evaluation.table(),
        "## Limits",
        _LIMITS[facts.kind].format(**told) + "\n" + _LIMITS_OF_ALL,
        "## Configuration",
        "```json\n" + json.dumps(facts.config, indent=1) + "\n```",
        "## Files",
        "`SHA256SUMS` lists the sha256 of every file, which is checked after each download "
        f"(`sha256sum -c SHA256SUMS`). Digest of all tensors: `{facts.digest}`. Weights are "
        "safetensors, configuration is JSON: nothing here can run code.",
    ]
    return "\n\n".join(parts) + "\n"


def _head(facts: CardFacts) -> str:
    """The part that hubs read. JSON strings are YAML strings."""
    tags = ["defectgen", "anomaly-detection", "synthetic-data", "industrial-inspection"]
    lines = [
        f"license: {json.dumps(facts.license)}",
        "library_name: defectgen",
        "pipeline_tag: unconditional-image-generation",
        f"tags: {json.dumps(tags)}",
    ]
    if facts.base is not None:
        lines.append(f"base_model: {json.dumps(facts.base)}")
    return "\n".join(["---", *lines, "---"])


def _lines(values: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in values.items())
