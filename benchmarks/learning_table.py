"""The tables of the learning benchmark, from the records of its runs; parts may be missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from benchmarks.learning_bootstrap import DRAWS, LEVEL, kid_difference
from benchmarks.learning_sets import FEWEST, PRODUCTS, SETS
from benchmarks.learning_unet import PROTOCOL

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
NOTE = (
    f"Means over the seeds named. Intervals: {LEVEL:.0%}, {DRAWS} resamples of test images and of "
    "samples; of several seeds downstream, the means of their ends, as if all erred alike. "
    f"Sets with fewer than {FEWEST} test images decide nothing."
)


class Records:
    """What was measured: part, recipe, set and seed to a record, and its feature files."""

    def __init__(self, found: dict[tuple[str, str, str, int], tuple[dict[str, Any], Path]]) -> None:
        self.found = found

    def seeds(self, part: str, label: str, name: str) -> list[int]:
        """Seeds for which this was measured."""
        return sorted(k[3] for k in self.found if k[:3] == (part, label, name))

    def all(self, part: str, label: str, name: str) -> list[dict[str, Any]]:
        """The records of all seeds."""
        return [self.found[part, label, name, s][0] for s in self.seeds(part, label, name)]

    def features(self, label: str, name: str, key: str) -> list[Tensor]:
        """Feature vectors of all seeds: "whole generated" and the like."""
        folders = [
            self.found["scores", label, name, s][1] for s in self.seeds("scores", label, name)
        ]
        return [load_file(f.with_name(f.name + "-features.safetensors"))[key] for f in folders]


def render(records: Records, backbones: Sequence[str], labels: Sequence[str]) -> str:
    """All tables in Markdown."""
    blocks = [NOTE]
    if backbones:
        blocks += ["### Backbones", goods_table(records, backbones)]
    for label in labels:
        blocks += [f"### Recipe {label}", scores_table(records, label)]
    if labels:
        blocks += ["### KID: difference to", differences(records, labels)]
    nets = [net_table(records, label) for label in labels if any_of(records, "downstream", label)]
    if nets:
        blocks += ["### Downstream: pixel average precision", *nets, PROTOCOL]
    return "\n\n".join(blocks)


def any_of(records: Records, part: str, label: str) -> list[str]:
    """Sets for which this part was measured."""
    return [name for name in SETS if records.seeds(part, label, name)]


def scores_table(records: Records, label: str) -> str:
    """A row per score, a column per set."""
    names = any_of(records, "scores", label)
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
    return "\n".join(lines)


def goods_table(records: Records, labels: Sequence[str]) -> str:
    """A row per score and recipe, a column per product; each seed in its own right."""
    lines = table_head("score, recipe", list(PRODUCTS))
    first = next(record for key, (record, _) in records.found.items() if key[0] == "goods")
    for score in (*(key for key in first if key != "time"), "processor minutes"):
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
    names = any_of(records, "scores", first)
    lines = table_head("view, compared with", names)
    for view in ("whole", "window"):
        for other in ("good twins", "copy-paste", *others):
            cells = [difference(records, first, other, name, view) for name in names]
            lines.append(row(f"{view}, {other}", cells))
    return "\n".join(lines)


def difference(records: Records, first: str, other: str, name: str, view: str) -> str:
    """One difference with its interval; empty if the other was not measured."""
    own = records.features(first, name, f"{view} generated")
    real = records.features(first, name, f"{view} real")[0]
    if other in ("good twins", "copy-paste"):
        theirs = records.features(first, name, f"{view} {other}")
    else:
        theirs = records.features(other, name, f"{view} generated")
    if not theirs:
        return ""
    count = min(len(own), len(theirs))
    found = kid_difference(real, own[:count], theirs[:count], paired=other == "good twins")
    value, low, high = found
    return f"{value:.0f} ({low:.0f} to {high:.0f})"


def net_table(records: Records, label: str) -> str:
    """AP of each arm, and differences with intervals, a column per set."""
    names = any_of(records, "downstream", label)
    found = {name: records.all("downstream", label, name) for name in names}
    lines = table_head(f"{label}, AP x 100", names)
    arms = list(found[names[0]][0]["arms"])
    for arm in arms:
        values = [mean(r["arms"][arm]["mean"] for r in found[n]) * 100 for n in names]
        lines.append(row(arm, values))
    for pair in found[names[0]][0]["differences"]:
        cells = []
        for name in names:
            some = [r["differences"][pair] for r in found[name]]
            low, high = (mean(d[end] for d in some) * 100 for end in ("low", "high"))
            middle = mean(d["mean"] for d in some) * 100
            cells.append(f"{middle:.1f} ({low:.1f} to {high:.1f})")
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
