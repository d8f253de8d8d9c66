"""The library behind the models: diffusers, an extra of its own."""

from __future__ import annotations

import importlib
from typing import Any

from ddbench.runtime.errors import UserError, install_words


def diffusers() -> Any:
    """The package ``diffusers``; imported where it is used, since it takes seconds.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module("diffusers")
    except ImportError as error:
        raise UserError(
            f"diffusion models need the package diffusers ({' '.join(str(error).split()):.120}): "
            f"{install_words('diffusion')}"
        ) from None
