"""What a demo did, and the page that says it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from defectgen import __version__
from defectgen.scores import PROTOCOLS
from defectgen.writer import METADATA_NAME

TITLE = "# defectgen demo"
REPORT_NAME, SHEET_NAME = "report.md", "contact_sheet.png"
ATTRIBUTION = (
    'Example pictures: "hazelnut_toy" by the anomalib authors, Intel, CC BY 4.0 '
    "(https://creativecommons.org/licenses/by/4.0/), resized to 64 px."
)


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What a demo did.

    Attributes:
        folder: where everything lies.
        kimg: thousands of training images.
        scores: of the samples; see `defectgen.scores.PROTOCOLS`.
        seconds: duration of each step by name.
        speed: milliseconds per image, see `defectgen.demo_speed.measure_speed`.
        photos: pairs learned from.
    """

    folder: Path
    kimg: float
    scores: dict[str, float]
    seconds: dict[str, float]
    speed: dict[str, float]
    photos: int


def score_lines(result: DemoResult) -> list[str]:
    """The scores as lines of a Markdown table."""
    scores = result.scores
    shown = {n: f"{scores[n]:.4g}" if n in scores else "undefined" for n in PROTOCOLS}
    return ["| score | value |", "|---|---:|", *(f"| {n} | {v} |" for n, v in shown.items())]


def speed_lines(speed: dict[str, float]) -> list[str]:
    """The gain of kernels and precision as lines of a Markdown table."""
    lines = ["| ms per image | this demo | plain PyTorch | times faster |", "|---|---:|---:|---:|"]
    for job in ("sampling", "training"):
        ours, plain = speed[job], speed[f"{job}, plain"]
        lines.append(f"| {job} | {ours:.2f} | {plain:.2f} | {plain / ours:.2f} |")
    return lines


def report(result: DemoResult, drawn: int, seed: int) -> str:
    """The report in Markdown: ``drawn`` samples were written."""
    pairs = result.photos
    steps = [f"| {name} | {value:.1f} |" for name, value in result.seconds.items()]
    total = sum(result.seconds.values())
    blocks = [
        [TITLE],
        [
            f"defectgen {__version__}, seed {seed}. A defect branch was trained from nothing for "
            f"{result.kimg:.2f} kimg (thousands of training images) on {pairs} photos with masks "
            "and the shipped backbone."
        ],
        [
            f"![{drawn} pairs were drawn; the sheet shows 16, then 8 on good photos]({SHEET_NAME})",
        ],
        [
            f"`images/`, `masks/` and `normals/` (the same objects without defect) hold "
            f"{drawn} pictures each, `{METADATA_NAME}` their seeds and mask areas."
        ],
        ["## Scores"],
        score_lines(result),
        [f"- **{name}**: {text}." for name, text in PROTOCOLS.items()],
        [
            f"How to read them: `area_generated` should be near `area_real` and `empty_masks` near "
            "0. `change_iou` says whether the mask is where the picture changed: 1 is perfect. "
            "`change_leak` is 0 where the architecture keeps its promise that nothing changes far "
            "from the mask. `swd_generated` near `swd_real` means patches as close to the real "
            f"ones as other real ones; the real halves have {pairs // 2} images, so differences of "
            "a few percent mean nothing. The generated images are compared with photos that were "
            "trained on: a low distance shows that the photos were learned, not that unseen "
            "defects are met."
        ],
        ["## Durations"],
        ["| step | seconds |", "|---|---:|", *steps, f"| all | {total:.1f} |"],
        ["## Speed"],
        speed_lines(result.speed),
        [
            f"This demo: {'native' if result.speed['native'] else 'no native'} kernels, "
            f"{'bfloat16' if result.speed['bf16'] else 'float32'}. Plain PyTorch: the reference "
            "operators in float32. Both keep freed memory. One after the other in this run: one "
            "batch of 16 samples with masks; one adversarial training iteration of 16 images, "
            "regularization spread over its interval."
        ],
        ["## Attribution"],
        [ATTRIBUTION],
    ]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"
