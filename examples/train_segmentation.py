"""Train a detector on real and synthetic defects together.

    python examples/train_segmentation.py                 # learns the shipped example first
    python examples/train_segmentation.py --model models/scratch

A small fully convolutional network learns which pixels are defective: from six photos, and from the
same photos with ``SAMPLES`` synthetic defects, each ``TRAININGS`` times for ``--steps`` steps. The
other photos, which neither the generator nor a detector has seen, are the test (a branch of your
own must have been fitted to the first six shipped pairs alone). It shows the pieces, and that one
training differs from the next; docs/learning.md has the benchmark.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, WeightedRandomSampler

from defectgen import Backbone, DefectSynthesizer, SyntheticDefects
from defectgen.data.example import example_folders
from defectgen.data.images import load_pairs

SAMPLES, BATCH, LEARNED, TRAININGS = 256, 16, 6, 3


class Photos(Dataset):
    """Real pairs as the same dicts that `SyntheticDefects` gives."""

    def __init__(self, images: Tensor, masks: Tensor) -> None:
        self.images, self.masks = images.float() / 255, masks.bool()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.images[index], "mask": self.masks[index], "label": 1}


def network() -> nn.Module:
    """Dilated convolutions: every pixel sees 31 x 31 around it."""
    layers: list[nn.Module] = []
    width = 3
    for dilation in (1, 2, 4, 8):
        layers += [nn.Conv2d(width, 24, 3, padding=dilation, dilation=dilation), nn.ReLU()]
        width = 24
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 1))


def train(loader: DataLoader, seed: int) -> nn.Module:
    """One pass over the loader."""
    torch.manual_seed(seed)
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for batch in loader:
        images, masks = batch["image"], batch["mask"].float()
        flip = torch.rand(len(images)) < 0.5
        images[flip], masks[flip] = images[flip].flip(3), masks[flip].flip(3)
        loss = F.binary_cross_entropy_with_logits(net(images), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def average_precision(scores: Tensor, truth: Tensor) -> float:
    """Mean precision at each true pixel, in the order of the scores."""
    ranked = truth.flatten()[scores.flatten().argsort(descending=True)].double()
    precision = ranked.cumsum(0) / torch.arange(1, len(ranked) + 1)
    return float((precision * ranked).sum() / ranked.sum())


def main() -> None:
    """Fit, train twice, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="weights folder of a synthesizer of the example")
    parser.add_argument("--kimg", type=float, default=2.0, help="budget of the fit")
    parser.add_argument("--steps", type=int, default=150)
    # Samples of a GPU are drawn by the process that has it.
    workers = 0 if torch.cuda.is_available() else 2
    parser.add_argument("--workers", type=int, default=workers)
    given = parser.parse_args()
    example = example_folders()
    pairs = load_pairs(example.defects, example.masks, resolution=64, channels=3)
    first, rest = slice(LEARNED), slice(LEARNED, None)
    if given.model:
        synth = DefectSynthesizer.from_pretrained(given.model)
    else:
        backbone = Backbone.from_pretrained(example.backbone)
        synth = DefectSynthesizer(backbone, kimg=given.kimg, precision="auto", seed=0)
        synth.fit(pairs.images[first], pairs.masks[first])
    photos = Photos(pairs.images[first], pairs.masks[first])
    synthetic = SyntheticDefects(synth, SAMPLES, seed=0)
    test_images, test_masks = pairs.images[rest].float() / 255, pairs.masks[rest].bool()
    for name, parts in (("real", [photos]), ("real + synthetic", [photos, synthetic])):
        # Each source is drawn equally often, however many it has.
        weights = [1 / len(part) for part in parts for _ in range(len(part))]
        scores = []
        for seed in range(TRAININGS):
            source = torch.Generator().manual_seed(seed)
            sampler = WeightedRandomSampler(weights, given.steps * BATCH, generator=source)
            loader = DataLoader(
                ConcatDataset(parts), BATCH, sampler=sampler, num_workers=given.workers
            )
            net = train(loader, seed)
            with torch.no_grad():
                scores.append(average_precision(net(test_images), test_masks))
        found = ", ".join(f"{score:.3f}" for score in scores)
        print(f"{name}: pixel average precision on {len(test_images)} unseen photos: {found}")


if __name__ == "__main__":
    main()
