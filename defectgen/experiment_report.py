"""What an experiment says: its cost beforehand, its report, the summary of many."""

from __future__ import annotations

from typing import Any

#: Of n photos of a defect the first third by name is learned from, and at least so many.
FEWEST_LEARNED = 5
#: Fewer unseen pairs cannot be compared with.
FEWEST_UNSEEN = 2
#: What the lines of a table begin with that tell what a score is: said once for all tables.
NOTE = "- **"


def cost_line(name: str, cost: dict[str, Any]) -> str:
    """What an experiment will cost, in one line."""
    memory = cost["gigabytes"]
    return (
        f"{name}: backbone of {cost['kimg']['backbone']:g} kimg and {cost['branches']} branches of "
        f"{cost['kimg']['branch']:g} kimg; about {cost['minutes']:.0f} min on this machine at the "
        "speed of its first steps, scores and pictures apart, "
        f"{'memory unknown' if memory is None else f'{memory:.1f} GB'}"
    )


def report_text(found: dict[str, Any]) -> str:
    """The report of one product in Markdown."""
    parts = [
        f"# {found['name']}",
        "![Good samples, real and generated defects](pictures.png)",
        f"{found['goods']} good photos at {found['settings']['resolution']} px, seed "
        f"{found['settings']['seed']}. Of the photos of a defect the first third by name, at least "
        f"{FEWEST_LEARNED}, was learned from; the scores compare with the others.",
    ]
    notes: dict[str, None] = {}
    for defect, scores in found["defects"].items():
        lines = scores["table"].split("\n")
        told = [line for line in lines if line.startswith(NOTE)]
        notes |= dict.fromkeys(told)
        table = [line for line in lines if line not in told]
        parts += [
            f"## {defect}",
            f"{scores['learned']} pairs learned, {scores['test']} unseen.",
            # Without the empty line that was left where the notes were.
            "\n".join(table).replace("\n\n\n", "\n\n"),
        ]
    parts += ["## Scores", "\n".join(notes)] if notes else []
    if found["left_out"]:
        few = ", ".join(f"{name} ({count})" for name, count in found["left_out"].items())
        parts.append(f"Too few pairs to learn from and to test on: {few}.")
    return "\n\n".join(parts) + "\n"


def summary_text(reports: list[dict[str, Any]]) -> str:
    """One table of all products and defects in Markdown; a score that was not measured is empty."""
    shown = ("kid@lite0", "kid_window@lite0", "change_iou", "area_ratio")
    lines = [
        f"| product | defect | learned | {' | '.join(shown)} |",
        f"|---|---|---:|{'---:|' * len(shown)}",
    ]
    for report in reports:
        for defect, found in report["defects"].items():
            values = [found["scores"].get(name, {}).get("generated") for name in shown]
            cells = ["" if value is None else f"{value:.3g}" for value in values]
            head = f"{report['name']} | {defect} | {found['learned']}"
            lines.append(f"| {head} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
