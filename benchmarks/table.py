"""Targets beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.memory import peak

Line = dict[str, Any]
#: What a line says whose precision the processor does not multiply in.
NONE = {"measured": "this processor does not multiply in bfloat16", "verdict": "not measured"}
#: Work -> (target, stretch) as ratios to the textbook: sampling and iterations, by precision.
RATIOS = {
    256: {
        ("sampling", "bf16"): (5.0, 6.0),
        ("sampling", "fp32"): (1.9, 2.2),
        ("backbone", "bf16"): (2.3, 2.8),
        ("backbone", "fp32"): (1.2, None),
        ("defect", "bf16"): (2.5, 3.5),
        ("defect", "fp32"): (1.3, None),
    },
    64: {
        (work, precision): (2.0, None)
        for work in ("sampling", "backbone", "defect")
        for precision in ("bf16", "fp32")
    },
}
#: Share of the matrix-product rate of the same precision: (target, stretch).
SHARES = {"bf16": (0.70, 0.85), "fp32": (0.62, 0.75)}
WORDS = {
    "sampling": "sampling",
    "backbone": "backbone training iteration",
    "defect": "defect training iteration",
}


def verdict(value: float, target: float, stretch: float | None = None, above: bool = True) -> str:
    """Pass, stretch or FAIL."""
    good = value >= target if above else value <= target
    if not good:
        return "FAIL"
    return "stretch" if stretch is not None and value >= stretch else "pass"


def size_lines(name: str, found: dict[str, Any], rates: dict[str, float]) -> list[Line]:
    """Lines of one size."""
    resolution = int(name.split()[0])
    lines = []
    shares = {"sampling": 0.33, "backbone": 0.60, "defect": 0.60}
    for work, least in shares.items():
        spent = found[work]["seconds"]
        gflop = found["gflop"] if work == "sampling" else found[work]["gflop"]
        rate = gflop / spent["textbook"] / rates["fp32"]
        kept = gflop / spent["kept"] / rates["fp32"]
        # A baseline counts if it reaches its share; the stronger one is taken if the plain fails.
        judge = "textbook" if rate >= least or resolution < 256 else "kept"
        note = "" if resolution < 256 or max(rate, kept) >= least else ", baseline below its bar"
        if resolution == 256:
            lines.append(
                {
                    "work": f"{name}: is the textbook a straw man? {WORDS[work]}",
                    "target": f">= {least:.0%} of the fp32 matrix rate",
                    "measured": f"{rate:.0%} ({kept:.0%} with kept memory), {gflop:.0f} GFLOP, "
                    f"{1000 * spent['textbook']:.0f} ms",
                    "verdict": verdict(max(rate, kept), least),
                }
            )
        for (part, precision), (target, stretch) in RATIOS[resolution].items():
            if part != work:
                continue
            heads = [
                {
                    "work": f"{name}: {WORDS[work]}, {precision}",
                    "target": f">= {target}x" + (f", stretch {stretch}x" if stretch else ""),
                }
            ]
            low, high = SHARES[precision]
            if work == "sampling" and resolution == 256:
                heads.append(
                    {
                        "work": f"{name}: sampling, {precision}, share of the matrix rate",
                        "target": f">= {low:.0%}, stretch {high:.0%}",
                    }
                )
            if precision not in spent:
                lines += [{**head, **NONE} for head in heads]
                continue
            ratios = [spent[name] / spent[precision] for name in ("textbook", "kept")]
            ratio = spent[judge] / spent[precision]
            share = gflop / spent[precision] / rates[precision]
            values = [
                {
                    "measured": f"{ratios[0]:.2f}x, {ratios[1]:.2f}x with kept memory; "
                    f"{1000 * spent[precision]:.1f} ms, {share:.0%} of the {precision} rate",
                    "verdict": f"{verdict(ratio, target, stretch)} (against {judge}{note})",
                },
                {"measured": f"{share:.0%}", "verdict": verdict(share, low, high)},
            ]
            lines += [{**head, **more} for head, more in zip(heads, values, strict=False)]
    pictures = found["sampling"]
    psnr = pictures.get("psnr_bf16")
    seen = {} if psnr is None else {"measured": f"{psnr:.1f} dB", "verdict": verdict(psnr, 40)}
    lines += [
        {
            "work": f"{name}: bf16 pictures against the fp32 textbook",
            "target": "PSNR > 40 dB",
            **(seen or NONE),
        },
        {
            "work": f"{name}: fp32 pictures against the textbook",
            "target": "max difference < 1e-3",
            "measured": f"{pictures['difference_fp32']:.1e}",
            "verdict": verdict(pictures["difference_fp32"], 1e-3, above=False),
        },
    ]
    return lines


def memory_lines(precisions: Sequence[str]) -> tuple[dict[str, float], list[Line]]:
    """Peaks of processes of their own, GiB, and their lines."""
    found = {f"sampling {n}": peak("sampling", str(n)) for n in (32, 256)}
    ratio = found["sampling 256"] / found["sampling 32"]
    lines = [
        {
            "work": "memory: iter_samples, 256 against 32 samples at 64 px",
            "target": "flat (<= 1.1x)",
            "measured": f"{ratio:.2f}x, {found['sampling 256']:.2f} GiB",
            "verdict": verdict(ratio, 1.1, above=False),
        }
    ]
    for stage in ("backbone", "defect"):
        name = f"training {stage}"
        head = {
            "work": f"memory: {stage} training, batch 16, 256 px, bf16",
            "target": "< 6 GB",
        }
        if "bf16" not in precisions:
            lines.append({**head, **NONE})
            continue
        found[name] = peak("training", stage, "bf16", "16")
        lines.append(
            {
                **head,
                "measured": f"{found[name] * 1.073742:.2f} GB",
                "verdict": verdict(found[name] * 1.073742, 6, above=False),
            }
        )
    return found, lines


def render(lines: list[Line], raw: dict[str, Any]) -> str:
    """The table in Markdown."""
    head = (
        f"commit {raw['commit']}, {raw['machine']['cpu']}, "
        f"{'/'.join(raw['machine'].get('instructions', []))}, {raw['machine']['threads']} threads, "
        f"torch {raw['machine']['torch']}; matrix products "
        + ", ".join(f"{rate:.0f} GFLOP/s in {name}" for name, rate in raw["rates"].items())
        + "\n"
    )
    rows = ["| work (time per image) | target | measured | verdict |", "|---|---|---|---|"]
    rows += [f"| {x['work']} | {x['target']} | {x['measured']} | {x['verdict']} |" for x in lines]
    return head + "\n" + "\n".join(rows)
