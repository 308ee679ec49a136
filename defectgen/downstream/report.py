"""What the downstream test found, and its words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from defectgen.downstream.arms import ARMS, DIFFERENCES


@dataclass(frozen=True, kw_only=True)
class Downstream:
    """Pixel average precision of a detector that learned from each source of defects.

    Attributes:
        arms: name of an arm -> "ap", one of each training, and "mean", in [0, 1].
        differences: "first - second" -> "mean", "low", "high": the ends of the interval.
        settings: samples, seed, steps; of the test its defects, goods, base rate (the share of
            defect pixels: what a blind guess would score), and digest; pairs and good images
            that were learned from, digests of models, threads, seconds.
        protocol: what was trained and measured, in words.
    """

    arms: dict[str, dict[str, Any]]
    differences: dict[str, dict[str, float]]
    settings: dict[str, Any]
    protocol: str

    def table(self) -> str:
        """Scores, differences with their intervals, and what they say, in Markdown."""
        lines = ["| learned from | AP x 100, mean | of each training |", "|---|---:|---|"]
        for name in ARMS:
            values = ", ".join(f"{100 * value:.1f}" for value in self.arms[name]["ap"])
            lines.append(f"| {name} | {100 * self.arms[name]['mean']:.1f} | {values} |")
        lines += ["", "| difference | AP x 100 | interval | |", "|---|---:|---|---|"]
        for name, found in self.differences.items():
            mean, low, high = (f"{100 * found[key]:+.1f}" for key in ("mean", "low", "high"))
            words = next((f"{a} against {b}" for a, b in DIFFERENCES if name == f"{a} - {b}"), name)
            lines.append(f"| {words} | {mean} | {low} to {high} | {verdict(found)} |")
        facts = ", ".join(f"{key} {value}" for key, value in self.settings.items())
        return "\n".join([*lines, "", self.protocol, "", f"Settings: {facts}."])

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)


def verdict(found: dict[str, float]) -> str:
    """What an interval says: better or worse only where it leaves out 0."""
    if found["low"] > 0:
        return "better"
    return "worse" if found["high"] < 0 else "cannot be told"
