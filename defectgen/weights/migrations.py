"""From older formats of the weights folder to this one: one small function a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from defectgen.errors import WeightsError

Migration = Callable[[dict[str, Any], dict[str, Tensor]], tuple[dict[str, Any], dict[str, Tensor]]]

# What version 2 stores and version 1 lacked, with the values that compute what version 1 computed.
_NEW_IN_2: dict[str, dict[str, Any]] = {
    "backbone": {"mapping_codes": 0, "base_components": 0},
    "defect": {"known": 0, "moves": ""},
    "training": {"precision": "fp32", "anchor_cell": 1, "texture_weight": 0.0},
}


def _with(config: dict[str, Any], new: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The folder's settings with these fields in those of its parts that lack them."""
    parts = config["config"]
    added = {part: {**fields, **parts[part]} for part, fields in new.items() if part in parts}
    return {**config, "config": {**parts, **added}}


def from_1(
    config: dict[str, Any], tensors: dict[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Version 1 to 2: images below the blocks, known defects, textures; one list less.

    Some folders that say 1 already hold the fields of 2, and keep them: the number was late.

    Raises:
        WeightsError: a synthesizer without its discriminator, which only one example ever was.
    """
    config = _with({k: v for k, v in config.items() if k != "networks"}, _NEW_IN_2)
    # It chose what discriminators were shown in training; no run can be continued with it.
    training = config["config"]["training"]
    training = {k: v for k, v in training.items() if k != "composite_reals"}
    discriminator = any(name.startswith("discriminator.") for name in tensors)
    if config["kind"] == "synthesizer" and not discriminator:
        raise WeightsError(
            "folder: a synthesizer of format 1 must hold its discriminator; got one saved without; "
            "fit it again"
        )
    return {**config, "config": {**config["config"], "training": training}}, tensors


def from_2(
    config: dict[str, Any], tensors: dict[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Version 2 to 3: known pairs are bytes, and how many places are tried is told."""
    known = {name: tensors[name] for name in tensors if name.startswith("branch.known.")}
    for name, value in known.items():
        if name.endswith(".images") and value.is_floating_point():
            known[name] = ((value + 1) * 127.5).round().clamp(0, 255).byte()
        if name.endswith(".masks") and value.is_floating_point():
            known[name] = (value > 0).byte()
    return _with(config, {"defect": {"places": 16}}), {**tensors, **known}


def from_3(
    config: dict[str, Any], tensors: dict[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Version 3 to 4: how far defects are bent is told, about as little as it was."""
    return _with(config, {"defect": {"bend": 0.015}}), tensors


def from_4(
    config: dict[str, Any], tensors: dict[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Version 4 to 5: textures may have a grain below the blocks; these have none."""
    return _with(config, {"backbone": {"grain_components": 0}}), tensors


def from_5(
    config: dict[str, Any], tensors: dict[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Version 5 to 6: the grain of a texture is that of photos, and was a spectrum."""
    parts = config["config"]
    if "backbone" not in parts:
        return config, tensors
    shape = {**parts["backbone"]}
    components = shape.pop("grain_components", 0)
    if components:
        raise WeightsError(
            "weights: a texture's grain must be that of its photos; got one of format 5, its "
            f"spectrum alone (grain_components={components!r}); fit the backbone again"
        )
    parts = {**parts, "backbone": {**shape, "grain_fields": 0}}
    return {**config, "config": parts}, tensors


#: `MIGRATIONS[v]` turns version v into v + 1. Each has a folder of version v under tests/weights.
MIGRATIONS: dict[int, Migration] = {1: from_1, 2: from_2, 3: from_3, 4: from_4, 5: from_5}
#: Version of the format written here: raise it, and add to the table, when a field comes or goes.
FORMAT_VERSION = 6
