"""Settings of a run's parts, said once in a dataclass."""

from __future__ import annotations

from dataclasses import Field, asdict, fields
from typing import Any

OMIT_DEFAULT = "omit default"
"""Metadata of a config field that came after products were published: at its default it is not recorded, so that they
keep their bytes."""


def recorded_config(config: Any) -> dict[str, Any]:
    """A method's config as it is recorded."""
    silent = {item.name for item in fields(config) if item.metadata.get(OMIT_DEFAULT) and _is_default(config, item)}
    return {name: value for name, value in asdict(config).items() if name not in silent}


def _is_default(config: Any, item: Field[Any]) -> bool:
    return bool(getattr(config, item.name) == item.default)
