"""Targets of a GPU of the H200 class beside what was measured."""

from __future__ import annotations

from typing import Any

from benchmarks.table import verdict

Line = dict[str, str]
#: Share of the copy bandwidth that an operator must reach.
SHARE = 0.80
IMAGES_PER_SECOND = 2000
#: Seconds per thousand images: of the published code on V100 20.8 to 24.2, on A100 12.5.
S_PER_KIMG = {"backbone": 3.0, "defect": 4.5}
MEMORY_GB = 6.0


def lines_of(raw: dict[str, Any]) -> list[Line]:
    """All lines of the table."""
    lines = op_lines(raw["ops"], raw["copy_gb_s"]) if "ops" in raw else []
    lines += sampling_lines(raw["sampling"]) if "sampling" in raw else []
    for stage in S_PER_KIMG:
        lines += training_lines(stage, raw[stage]) if stage in raw else []
    return lines + (compiled_lines(raw["compiled"]["phases"]) if "compiled" in raw else [])


def op_lines(found: dict[str, Any], copy: float) -> list[Line]:
    """One line per dtype and operator."""
    lines = []
    for dtype, works in found.items():
        for work, rates in works.items():
            share = rates["fused"] / copy
            others = [f"{k} {v:.0f}" for k, v in rates.items() if k in ("reference", "compiled")]
            lines.append(
                {
                    "work": f"{work}, {dtype}",
                    "target": f">= {SHARE:.0%} of copying",
                    "measured": f"{share:.0%}, {rates['fused']:.0f} GB/s ({', '.join(others)})",
                    "verdict": verdict(share, SHARE),
                }
            )
    return lines


def sampling_lines(found: dict[str, float]) -> list[Line]:
    """One line per way to compute; those of the reference have no target."""
    return [
        {
            "work": f"sampling, 256 px, batch 64: {name}",
            "target": f">= {IMAGES_PER_SECOND} img/s" if name.startswith("fused") else "",
            "measured": f"{rate:.0f} img/s",
            "verdict": verdict(rate, IMAGES_PER_SECOND) if name.startswith("fused") else "",
        }
        for name, rate in found.items()
    ]


def training_lines(stage: str, found: dict[str, Any]) -> list[Line]:
    """Time and memory of each way to train."""
    lines = []
    for name, result in found.items():
        ours = name.startswith("fused")
        work = f"{stage} training, 256 px, batch 16: {name}"
        took, target = result["s_per_kimg"], S_PER_KIMG[stage]
        phases = ", ".join(f"{k} {v:.2f}" for k, v in result["phases"].items())
        skipped = result["skipped_steps"]
        lines.append(
            {
                "work": work,
                "target": f"<= {target} s/kimg" if ours else "",
                "measured": f"{took:.2f} s/kimg ({phases})"
                + (f", {skipped} steps skipped" if skipped else ""),
                "verdict": verdict(took, target, above=False) if ours else "",
            }
        )
        lines.append(
            {
                "work": f"{work}, memory",
                "target": f"< {MEMORY_GB:.0f} GB" if ours else "",
                "measured": f"{result['peak_gb']:.2f} GB",
                "verdict": verdict(result["peak_gb"], MEMORY_GB, above=False) if ours else "",
            }
        )
    return lines


def compiled_lines(phases: dict[str, float]) -> list[Line]:
    """The phases of backbone training that torch.compile can do."""
    found = ", ".join(f"{k} {v:.2f} s/kimg" for k, v in phases.items())
    return [
        {
            "work": "backbone training, 256 px, batch 16: reference, compiled, bf16",
            "target": "",
            "measured": f"{found or 'nothing'}; cannot differentiate twice",
            "verdict": "",
        }
    ]


def render(lines: list[Line], raw: dict[str, Any]) -> str:
    """The table in Markdown."""
    facts = ", ".join(f"{k} {v}" for k, v in raw["machine"].items() if k not in ("device", "tf32"))
    head = (
        f"commit {raw['commit']}, {raw['machine']['device']}, {facts}; "
        f"copying {raw['copy_gb_s']:.0f} GB/s" + (" (a dry run)" if raw["tiny"] else "") + "\n"
    )
    rows = ["| work | target | measured | verdict |", "|---|---|---|---|"]
    rows += [f"| {x['work']} | {x['target']} | {x['measured']} | {x['verdict']} |" for x in lines]
    return head + "\n" + "\n".join(rows)
