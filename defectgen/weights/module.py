"""From named tensors into a module: all of them or none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from defectgen.errors import WeightsError
from defectgen.weights.values import listed


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str, source: str) -> None:
    """Load the tensors named `prefix.*` into a module, all of them or none.

    Args:
        module: Receives the values; keeps its device and dtypes.
        tensors: As returned by `load_folder`.
        prefix: First part of the names without the dot; empty for all tensors.
        source: Where the tensors came from, for the message.

    Raises:
        WeightsError: names are missing or not expected, or shapes or kinds of number differ; one
            message for all. Nothing has been loaded then.
    """
    start = f"{prefix}." if prefix else ""
    given = {key[len(start) :]: tensors[key] for key in tensors if key.startswith(start)}
    wanted = module.state_dict()
    problems = [f"{start}{key} is missing" for key in wanted if key not in given]
    problems += [f"{start}{key} is not expected" for key in given if key not in wanted]
    for key in (key for key in wanted if key in given):
        have, need = given[key], wanted[key]
        if have.shape != need.shape:
            problems.append(f"{start}{key} has shape {tuple(have.shape)}, not {tuple(need.shape)}")
        elif have.is_floating_point() != need.is_floating_point():
            problems.append(f"{start}{key} has type {have.dtype}, not {need.dtype}")
    if problems:
        raise WeightsError(
            f"{source}: must hold exactly the tensors of this {type(module).__name__}; got "
            f"{len(problems)} difference(s): {listed(problems)}; check that weights and "
            "configuration belong together"
        )
    module.load_state_dict(given, strict=True)


def unclaimed(
    tensors: Mapping[str, Tensor], prefixes: Iterable[str], source: str = "tensors"
) -> None:
    """Refuse tensors that no part of the model will load.

    Args:
        tensors: As returned by `load_folder`.
        prefixes: First parts of the names that some module loads, without the dot.
        source: Where the tensors came from, for the message.

    Raises:
        WeightsError: a name begins with none of the prefixes.
    """
    known = tuple(f"{prefix}." for prefix in prefixes)
    left = [name for name in sorted(tensors) if not name.startswith(known)]
    if left:
        raise WeightsError(
            f"{source}: every name must begin with one of {', '.join(known)}; got {listed(left)}; "
            "check that the folder is of this model"
        )
