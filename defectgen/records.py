"""Records that are saved as JSON: strict dictionaries, there and back."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from defectgen.checks import check_fields
from defectgen.errors import ConfigError

_R = TypeVar("_R", bound="Record")


class Record:
    """A frozen dataclass of plain types; strict conversion to and from dictionaries (JSON)."""

    def __post_init__(self) -> None:
        """Numbers of numpy become plain ones: only those can be saved."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if hasattr(value, "item"):
                object.__setattr__(self, field.name, value.item())

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain types."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_dict(cls: type[_R], values: dict[str, Any]) -> _R:
        """Build from a dictionary; every field must be there and no other.

        Raises:
            ConfigError: naming the missing and the unknown fields, or the field of a wrong type.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        check_fields(cls.__name__, fields, values)
        for name, value in values.items():
            _check_type(cls.__name__, name, value, str(fields[name].type))
        return cls(**values)


def _check_type(owner: str, name: str, value: Any, annotation: str) -> None:
    kinds: dict[str, tuple[type, ...]] = {
        "int": (int,),
        "float": (int, float),
        "bool": (bool,),
        "str": (str,),
        "None": (type(None),),
    }
    allowed = tuple(k for part in annotation.split(" | ") for k in kinds[part])
    good = isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool))
    if not good:
        raise ConfigError(
            f"{owner}.{name}: of type {annotation}; got {value!r}; "
            "use a file this version has written."
        )
