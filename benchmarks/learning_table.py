"""The tables of the learning benchmark, from the records of its runs; parts may be missing."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

import torch

from benchmarks.learning_records import Records
from benchmarks.learning_sets import ALL, FEWEST, PRODUCTS
from defectgen.downstream.curve import DRAWS, LEVEL, interval
from defectgen.metrics.distances import unseen_share

#: Scores of the first table with their columns.
SHOWN = (
    ("kid@lite0", ("generated", "copy-paste", "good twins")),
    ("kid_window@lite0", ("generated", "copy-paste", "good twins")),
    ("coverage@lite0", ("generated", "copy-paste")),
    ("masked_diversity@stlpips_alex", ("generated", "copy-paste", "real")),
    ("memorization@lite0", ("generated", "real")),
    ("change_iou", ("generated", "copy-paste")),
    ("area_ratio", ("generated",)),
    ("empty_masks", ("generated",)),
    ("full_masks", ("generated",)),
    ("border", ("generated", "real")),
    ("drift_ring", ("generated",)),
    ("drift_far", ("generated",)),
)
#: What of a backbone's record is no score.
NO_SCORE = ("time", "commit", "machine")
NOTE = (
    f"Means over the seeds named. Intervals: {LEVEL:.0%}, {DRAWS} resamples of test images and of "
    "samples, the same test images for all that is compared; what other training seeds would give "
    "is not in them. A recipe is compared where it has a seed in common with the first one; an "
    "asterisk: the two do not stand on the same backbone, but on that of another machine, or of "
    f"another recipe. Sets with fewer than {FEWEST} test images decide nothing."
)


def render(records: Records, backbones: Sequence[str], labels: Sequence[str]) -> str:
    """All tables in Markdown."""
    blocks = [NOTE]
    if backbones:
        blocks += ["### Backbones", goods_table(records, backbones)]
    for label in labels:
        blocks += [f"### Recipe {label}", scores_table(records, label)]
    if labels:
        blocks += ["### KID: difference to", differences(records, labels)]
    measured = [label for label in labels if records.names("downstream", label, ALL)]
    if measured:
        # As it was when that was measured, whatever it is today.
        told = {r["protocol"] for key, r in records.found.items() if key[0] == "downstream"}
        nets = [net_table(records, label) for label in measured]
        blocks += ["### Downstream: pixel average precision", *nets, *sorted(told)]
    blocks.append("\n".join(f"- {line}" for line in records.origins()))
    return "\n\n".join(blocks)


def scores_table(records: Records, label: str) -> str:
    """A row per score, a column per set."""
    names = records.names("scores", label, ALL)
    lines = table_head("score", names)
    lines.append(row("seeds", [len(records.seeds("scores", label, name)) for name in names]))
    minutes = [mean(map(minutes_of, records.all("scores", label, name))) for name in names]
    lines.append(row("processor minutes of the fit", minutes))
    for score, columns in SHOWN:
        for column in columns:
            values = [
                average(
                    r["scores"].get(score, {}).get(column) for r in records.all("scores", label, n)
                )
                for n in names
            ]
            lines.append(row(f"{score}, {column}", values))
        if score.startswith("memorization"):
            settings = [records.all("scores", label, name)[0]["settings"] for name in names]
            values = [unseen_share(some["training"], some["real"]) for some in settings]
            lines.append(row(f"{score}, expected of unseen photos", values))
    return "\n".join(lines)


def goods_table(records: Records, labels: Sequence[str]) -> str:
    """A row per score and recipe, a column per product; each seed in its own right."""
    lines = table_head("score, recipe", list(PRODUCTS))
    shown = next((r for key, r in records.found.items() if key[0] == "goods"), {})
    for score in (*(key for key in shown if key not in NO_SCORE), "processor minutes"):
        for label in labels:
            cells = []
            for product in PRODUCTS:
                some = records.all("goods", label, product)
                values = [minutes_of(r) if score not in r else r[score] for r in some]
                cells.append(", ".join(f"{value:.3g}" for value in values))
            lines.append(row(f"{score}, {label}", cells))
    return "\n".join(lines)


def differences(records: Records, labels: Sequence[str]) -> str:
    """KID of the first recipe minus that of what it is compared with."""
    first, *others = labels
    names = records.names("scores", first, ALL)
    lines = table_head("view, compared with", names)
    for view in ("whole", "window"):
        for other in ("good twins", "copy-paste", *others):
            cells = [difference(records, first, other, name, view) for name in names]
            lines.append(row(f"{view}, {other}", cells))
    return "\n".join(lines)


def difference(records: Records, first: str, other: str, name: str, view: str) -> str:
    """One difference with its interval; empty if the other was not measured."""
    kind, label = (other, first) if other in ("good twins", "copy-paste") else ("generated", other)
    seeds = [
        s
        for s in records.seeds("scores", first, name)
        if ("scores", label, name, s) in records.draws
    ]
    pairs = [(("scores", first, name, s), ("scores", label, name, s)) for s in seeds]
    pairs = [(own, theirs) for own, theirs in pairs if own in records.draws]
    if not pairs:
        return ""
    tests = {records.found[key]["settings"]["data"] for pair in pairs for key in pair}
    if len(tests) > 1:
        raise ValueError(f"{name}: the same test images for all; got {sorted(tests)}; measure anew")
    draws = [
        records.draws[own][f"{view} generated"] - records.draws[theirs][f"{view} {kind}"]
        for own, theirs in pairs
    ]
    value, low, high = interval(torch.stack(draws).mean(0))
    stands = [[records.found[key]["settings"]["backbone"] for key in pair] for pair in pairs]
    mark = "" if all(own == theirs for own, theirs in stands) else "*"
    return f"{value:.0f}{mark} ({low:.0f} to {high:.0f})"


def net_table(records: Records, label: str) -> str:
    """AP of each arm, and differences with intervals, a column per set."""
    names = records.names("downstream", label, ALL)
    found = {name: records.all("downstream", label, name) for name in names}
    lines = table_head(f"{label}, AP x 100", names)
    lines.append(row("seeds", [len(found[name]) for name in names]))
    for arm in found[names[0]][0]["arms"]:
        values = [mean(r["arms"][arm]["mean"] for r in found[n]) * 100 for n in names]
        lines.append(row(arm, values))
    for pair in found[names[0]][0]["differences"]:
        cells = []
        for name in names:
            keys = [
                ("downstream", label, name, s) for s in records.seeds("downstream", label, name)
            ]
            draws = torch.stack([records.draws[key][pair] for key in keys]).mean(0)
            value, low, high = (100 * end for end in interval(draws))
            cells.append(f"{value:.1f} ({low:.1f} to {high:.1f})")
        lines.append(row(pair, cells))
    return "\n".join(lines)


def minutes_of(record: dict[str, Any]) -> float:
    """How long it took by the clock of the processor, which other jobs do not disturb."""
    return float(record["time"]["processor_minutes"])


def table_head(title: str, names: Sequence[str]) -> list[str]:
    """The two first lines of a table."""
    return [f"| {title} | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]


def average(values: Any) -> float | None:
    """Mean of those that are there."""
    there = [value for value in values if value is not None]
    return mean(there) if there else None


def row(title: str, values: Sequence[Any]) -> str:
    """One line."""
    shown = [
        "" if v is None else v if isinstance(v, str) else f"{v:.3g}" if v < 1000 else f"{v:.0f}"
        for v in values
    ]
    return f"| {title} | {' | '.join(shown)} |"
