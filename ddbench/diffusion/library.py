"""The library behind the models: diffusers, an extra of its own."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, the package keeps its warnings to itself: they hold texts of foreign files as these are."""
    logging = diffusers().utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
