"""What the spine (runs, evaluations, the board) asks about data, by the name of their modality: images or graphs.

Loads no torch: a modality's methods import what they need.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ddbench.modalities.base import Modality
from ddbench.registry import Registry
from ddbench.runtime.errors import UserError

__all__ = ["MODALITIES", "Modality", "modality", "modality_at", "require_forecast"]

IMAGE = "image"

MODALITIES = Registry(
    "modality",
    None,
    {"image": "ddbench.modalities.image:ImageModality", "graph": "ddbench.modalities.graph:GraphModality"},
)
"""The modalities by name."""


@cache
def modality(name: str) -> Modality:
    """A modality by name.

    Raises:
        UserError: there is none of that name.
    """
    made = MODALITIES.get(name)()
    assert isinstance(made, Modality)
    return made


def require_forecast(name: str) -> None:
    """Refuse a forecast of work that none can be made of.

    Raises:
        UserError: of this modality.
    """
    if not modality(name).forecasts:
        raise UserError(f"plan: work on {modality(name).items} is not tried beforehand, it takes seconds to minutes")


def modality_at(path: Path) -> Modality:
    """The modality of a synset file, by its header; of one without a readable header that of images, which says what
    is wrong when it reads it.

    Raises:
        UserError: it is of a modality that is not known here.
    """
    from ddbench.runtime.tensors import open_tensors
    from ddbench.synset import KIND, SCHEMA

    try:
        with open_tensors(path, KIND, SCHEMA) as (_, header):
            name = header.get("modality")
    except UserError:
        return modality(IMAGE)
    if not isinstance(name, str) or name not in MODALITIES:
        raise UserError(f"{path}: modality {name!r:.60} is none of {', '.join(MODALITIES)}; upgrade ddbench")
    return modality(name)
