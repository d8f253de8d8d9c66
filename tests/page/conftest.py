"""A real Chromium, headless, that may reach nothing but the file it is given."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_board import made_board

from ddbench.leaderboard.pages.page import build

from .reading import PATIENCE

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def _missing(what: str) -> None:
    """A missing browser is a failure where CI runs, and a skip with its reason anywhere else."""
    text = f"no {what}: `apt-get install chromium` and `pip install '.[page]'` (or set DDBENCH_CHROMIUM)"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(text, pytrace=False)
    pytest.skip(text)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One browser for all tests, with a new profile."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("DDBENCH_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if path is None:
        _missing("Chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("playwright")
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, headless=True, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture
def said() -> list[str]:
    """What pages asked for beyond their own files, and what stood on their console."""
    return []


@pytest.fixture
def visit(browser: Any, said: list[str]) -> Iterator[Callable[..., Any]]:
    """Open the page of a board; at the end nothing was requested, and nothing was said on the console."""
    contexts = []

    def open_page(root: Path, address: str = "", **options: Any) -> Any:
        options.setdefault("viewport", {"width": 1400, "height": 950})
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.on("request", lambda request: _local(request.url, root) or said.append(f"request: {request.url[:200]}"))
        page.on("console", lambda message: said.append(f"console: {message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.goto(f"{(root / 'index.html').resolve().as_uri()}{address}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


def _local(url: str, root: Path) -> bool:
    """Whether a page may ask for this: itself, the file of a row, a picture beside a result."""
    here = f"{root.resolve().as_uri()}/"
    own = url.split("#")[0].removeprefix(here)
    loaded = re.fullmatch(r"rows/[0-9a-f]{16}\.js|results(/[a-z0-9-]+){3}/[0-9a-f]{16}\.png", own) is not None
    return url.startswith("data:") or (url.startswith(here) and (own == "index.html" or loaded))


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a made-up board, built once; tests only read it."""
    root = made_board(tmp_path_factory.mktemp("board"))
    build(root)
    return root
