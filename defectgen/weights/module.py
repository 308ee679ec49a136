"""From named tensors into a module: all of them or none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from defectgen.errors import ConfigError, WeightsError
from defectgen.weights.values import listed

_M = TypeVar("_M", bound=nn.Module)


def build_strict(
    make: Callable[[], _M], tensors: Mapping[str, Tensor], prefix: str, source: str
) -> _M:
    """Build a module and load it as `load_strict` does; what does not fit takes no memory.

    A configuration is only text: it may ask for any size, the tensors are what is there.

    Args:
        make: Builds the module; called twice, first without memory for its values.
        tensors: As for `load_strict`.
        prefix: Likewise.
        source: Likewise.

    Raises:
        WeightsError: as `load_strict`, or a size of the configuration is none.
    """
    try:
        with torch.device("meta"):
            sketch = make()
    except (ConfigError, RuntimeError, TypeError, ValueError, ArithmeticError) as error:
        raise WeightsError(
            f"{source}: must have a configuration of a network; got {type(error).__name__}: {error}"
            "; save or download it again"
        ) from error
    _check_fits(sketch, tensors, prefix, source)
    module = make()
    load_strict(module, tensors, prefix, source)
    return module


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
    module.load_state_dict(_check_fits(module, tensors, prefix, source), strict=True)


def _check_fits(
    module: nn.Module, tensors: Mapping[str, Tensor], prefix: str, source: str
) -> dict[str, Tensor]:
    """The tensors of a module by their names in it, if they are all and no more."""
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
    return given


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
