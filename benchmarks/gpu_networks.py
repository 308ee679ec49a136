"""Sampling and training of the published networks on a GPU, in several ways to compute the same."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_measure import Clock
from benchmarks.gpu_ops import forget, inside, seconds_compiled
from defectgen.augment.pipe import AugmentPipe
from defectgen.augment.policy import POLICIES
from defectgen.config import (
    BackboneConfig,
    backbone_config,
    backbone_training,
    defect_config,
    defect_training,
)
from defectgen.networks.layers import constant_weights
from defectgen.networks.precision import in_precision
from defectgen.networks.synthesis import Generator
from defectgen.rng import GeneratorNoise, generator
from defectgen.training.backbone_task import BackboneTask, new_discriminator
from defectgen.training.defect_start import new_networks
from defectgen.training.defect_task import DefectTask
from defectgen.training.loop import _step
from defectgen.training.phases import Batch

#: Name in the table -> precision. "fp32" is the published mixture on a GPU: the four largest
#: resolutions in fp16, the others in fp32.
PRECISIONS = {"bf16": "bf16", "published mixture": "fp32"}
#: Real images of a task; their content costs nothing.
IMAGES = 32


def shape(tiny: bool) -> BackboneConfig:
    """The published networks at 256 px; in a dry run small ones."""
    published = backbone_config(256, 3, "dfmgan")
    if not tiny:
        return published
    sizes = {"z_dim": 8, "w_dim": 16, "channel_base": 128, "channel_max": 8}
    return replace(published, resolution=32, **sizes)


def drawn(config: BackboneConfig, device: torch.device) -> Generator:
    """A generator with fresh weights."""
    network = Generator(config)
    network.reset(generator(0, "generator"))
    return network.to(device)


# -- sampling --------------------------------------------------------------------------------------


class Sampler:
    """Draws one batch again and again: mapping, synthesis, fixed latents and noise."""

    def __init__(self, clock: Clock, tiny: bool) -> None:
        self.clock, self.tiny = clock, tiny
        self.batch = 2 if tiny else 64
        self.network = drawn(shape(tiny), clock.device)
        source = torch.Generator(device=clock.device)
        source.manual_seed(0)
        self.z = torch.randn(
            self.batch, self.network.config.z_dim, generator=source, device=clock.device
        )
        self.noise = GeneratorNoise(source, keep=True)

    def draw(self) -> Tensor:
        """Images (N, 3, R, R)."""
        ws = self.network.broadcast(self.network.mapping(self.z))
        return self.network.synthesis(ws, self.noise)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Contender -> images per second."""
        took: dict[str, float | None] = {}
        for name, precision in PRECISIONS.items():
            with in_precision(precision):
                with inside("fused", self.clock.on_gpu), constant_weights(self.network):
                    took[f"fused, {name}"] = self.clock.seconds(self.draw)
                    took[f"fused as a CUDA graph, {name}"] = self.clock.attempt(
                        "CUDA graph", self.seconds_as_graph
                    )
                with inside("reference", True), constant_weights(self.network):
                    took[f"reference, {name}"] = self.clock.seconds(self.draw)
        with in_precision("bf16"), inside("reference", True):
            self.draw()  # draws the noise outside of the compiled function
            took["reference, compiled, bf16"] = self.clock.attempt(
                "sampling, compiled", lambda: seconds_compiled(self.clock, self.draw, self.tiny)
            )
        return {name: self.batch / seconds for name, seconds in took.items() if seconds}

    def seconds_as_graph(self) -> float:
        """Time of the pass replayed as a CUDA graph."""
        with self.replay() as call:
            return self.clock.seconds(call)

    @contextmanager
    def replay(self) -> Iterator[Callable[[], object]]:
        """The pass as a CUDA graph; on a CPU the pass itself."""
        if not self.clock.on_gpu:
            yield self.draw
            return
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.draw()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.draw()
        yield graph.replay


# -- training --------------------------------------------------------------------------------------


class Training:
    """One stage of training on random images.

    Args:
        stage: "backbone" or "defect".
        device: of the training.
        tiny: small networks.
    """

    def __init__(self, stage: str, device: torch.device, tiny: bool) -> None:
        config, preset = shape(tiny), "dfmgan"
        self.batch_size = 4 if tiny else 16
        side, source = config.resolution, torch.Generator(device=device)
        source.manual_seed(0)
        size = (IMAGES, 3, side, side)
        images = torch.rand(size, generator=source, device=device) * 2 - 1
        masks = torch.zeros(IMAGES, 1, side, side, dtype=torch.bool, device=device)
        masks[:, :, side // 4 : side // 2, side // 4 : side // 2] = True
        network = drawn(config, device)
        judge = new_discriminator(config)
        judge.reset(generator(0, "discriminator"))
        judge = judge.to(device)
        pipe = AugmentPipe(POLICIES["bgc"])
        shared = {"preset": preset, "kimg": 10.0, "batch_size": self.batch_size, "seed": 0}
        self.task: BackboneTask | DefectTask
        if stage == "backbone":
            numbers = backbone_training(config, **shared)
            self.task = BackboneTask((network, judge), numbers, images, pipe)
        else:
            branch, judges = new_networks(config, defect_config(config, preset), judge, 0)
            branch, judges = branch.to(device), tuple(j.to(device) for j in judges)
            numbers = defect_training(config, **shared, warm=True)
            self.task = DefectTask(network, branch, judges, numbers, images, masks, pipe)
        index = torch.arange(self.batch_size, device=device) % IMAGES
        self.batch = Batch(images[index], index, masks[index] if stage == "defect" else None)

    def phases(self) -> dict[str, tuple[int, Callable[[], object]]]:
        """Phases of the adversarial part: name -> (interval, one step)."""
        return {
            phase.name: (
                phase.interval,
                lambda phase=phase: _step(self.task.state, phase, self.batch),
            )
            for phase in self.task.phases()
            if phase.last is None
        }

    def everything(self) -> None:
        """One iteration with all lazy terms."""
        for _, step in self.phases().values():
            step()


def measure_training(clock: Clock, stage: str, tiny: bool) -> dict[str, Any]:
    """Contender -> seconds per thousand images, of each phase and in all; and GB of memory."""
    found: dict[str, Any] = {}
    for name, precision in PRECISIONS.items():
        for mode in ("fused", "reference"):
            found[f"{mode}, {name}"] = _measured(clock, stage, tiny, (mode, precision))
    return found


def _contexts(mode: str, precision: str, gpu: bool) -> AbstractContextManager[Any]:
    stack = ExitStack()
    stack.enter_context(inside(mode, gpu))
    stack.enter_context(in_precision(precision))
    return stack


def _measured(clock: Clock, stage: str, tiny: bool, way: tuple[str, str]) -> dict[str, Any]:
    clock.sweep()
    training = Training(stage, clock.device, tiny)
    result: dict[str, Any] = {"phases": {}, "s_per_kimg": 0.0}
    with _contexts(*way, clock.on_gpu):
        training.everything()  # the optimizers get their memory
        result["peak_gb"] = clock.peak(training.everything)
        for name, (interval, step) in training.phases().items():
            share = 1000 * clock.seconds(step) / interval / training.batch_size
            result["phases"][name] = share
            result["s_per_kimg"] += share
    result["skipped_steps"] = training.task.state.skipped
    return result


def measure_compiled(clock: Clock, tiny: bool) -> dict[str, Any]:
    """The backbone's phases without second derivatives, which torch.compile cannot do."""
    training = Training("backbone", clock.device, tiny)
    task = training.task
    result: dict[str, Any] = {"phases": {}}
    forget()
    with _contexts("reference", "bf16", clock.on_gpu), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part in (task.network.synthesis, task.judge):
            part.compile(dynamic=False, backend="aot_eager" if tiny else "inductor")
        steps = training.phases()
        for name in ("G", "D"):
            step = steps[name][1]
            took = clock.attempt(f"{name}, compiled", lambda step=step: clock.seconds(step))
            if took:
                result["phases"][name] = 1000 * took / training.batch_size
    return result
