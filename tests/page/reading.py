"""What the tests of the page share: waiting, and looking at what is drawn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

Visit = Callable[..., Any]
"""Opens the page of a board, see ``conftest.py``."""
PATIENCE = 120.0
"""Seconds after which nothing will come any more, however busy the machine."""
READY = "#panel[open] .rest:not([aria-busy])"
"""An opened row whose file has arrived."""


def until(holds: Callable[[], bool]) -> None:
    """Wait for what the page does a moment later; playwright's own waiting evaluates text, which the policy forbids."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def shown(page: Any, selector: str) -> list[Any]:
    """The elements that can be seen."""
    return [one for one in page.query_selector_all(selector) if one.is_visible()]
