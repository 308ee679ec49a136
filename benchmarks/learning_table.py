"""The table of the learning benchmark, from the records of its runs."""

from __future__ import annotations

from typing import Any

#: Scores that the table shows, with their columns.
SHOWN = (
    ("kid@lite0", ("generated", "copy-paste", "good twins")),
    ("kid_window@lite0", ("generated", "copy-paste", "good twins")),
    ("masked_diversity@st_lpips", ("generated", "copy-paste", "real")),
    ("memorization@lite0", ("generated",)),
    ("change_iou", ("generated", "copy-paste")),
    ("area_ratio", ("generated",)),
    ("empty_masks", ("generated",)),
    ("border", ("generated", "real")),
    ("drift_far", ("generated",)),
)


def render(records: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row per score, a column per fit."""
    scores = {k.split("/", 1)[1]: r for k, r in records.items() if k.startswith("scores/")}
    lines = [f"| score | {' | '.join(scores)} |", f"|---|{'---:|' * len(scores)}"]
    lines.append(cells("minutes", [r["time"]["minutes"] for r in scores.values()]))
    for name, columns in SHOWN:
        for column in columns:
            values = [r["scores"].get(name, {}).get(column) for r in scores.values()]
            lines.append(cells(f"{name} {column}", values))
    nets = {k.split("/", 1)[1]: r for k, r in records.items() if k.startswith("downstream/")}
    for label in scores:
        if label in nets:
            lines += ["", f"{label}: {nets[label]}"]
    return "\n".join(lines)


def cells(title: str, values: list[float | None]) -> str:
    """One row."""
    shown = ["" if value is None else f"{value:.4g}" for value in values]
    return f"| {title} | {' | '.join(shown)} |"
