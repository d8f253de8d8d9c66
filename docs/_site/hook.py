"""MkDocs calls this module: pages made of the code, the cards and the board; links as the repository has them."""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))

import made_pages as pages  # noqa: E402  (beside this file)
import run_notebook  # noqa: E402
from mkdocs.structure.files import File, Files  # noqa: E402

REPOSITORY = "https://github.com/ddbench/ddbench/blob/main/"
"""Where a link leads whose target is in the repository and not on the site."""

PAGES = (".md", ".png", ".svg")
COPIED = ("methods", "benchmarks")
"""Folders beside docs/ whose Markdown and pictures are pages as they are."""

SINGLE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
BOARD = "board/index.html"
MOVED = {**SINGLE, "README.md": "start.md", "docs/tutorial.ipynb": "tutorial.md", "leaderboard/index.html": BOARD}
MOVED |= {"leaderboard/LEADERBOARD.md": BOARD, "leaderboard/README.md": "leaderboard.md"}
"""File of the repository -> where the site has it, if not by its own name."""

OWN = ("from-disk.js", "site.css")
SHIM = '<script src="https://unpkg.com/iframe-worker/shim"></script>'
"""What the theme would load from elsewhere to search from the disk; ours does it."""

NAV: list[Any] = [
    {"Start": ["index.md", "start.md", "which-method.md", "tutorial.md"]},
    {"How to": ["data.md", "graphs.md", "diffusion.md", "own-method.md", "submitting.md", "reproduce.md", "scale.md"]},
    {"Methods": ["methods/README.md", "decoders.md", "methods/*/README.md", "reference/bibtex.md"]},
    {
        "Scoring": [
            "protocols.md",
            "protocols/*.md",
            "scores.md",
            "calibration.md",
            "robustness.md",
            "tasks/*.md",
            "baselines.md",
        ]
    },
    {"Results": ["leaderboard.md", "digits.md", "labels.md", "mnist.md", "truth.md"]},
    {"Reference": ["reference/cli.md", "api.md", "reference/api.md", "files.md", "architecture.md"]},
    {"Measured": ["benchmarks/README.md", "benchmarks/*.md"]},
    {"More": ["contributing.md", "changelog.md", "**"]},
]
"""The menu; a pattern stands for the pages that no entry names and no pattern before it has, ``**`` for all of them."""


def on_config(config: Any) -> Any:
    """The menu, of the pages that there are."""
    known = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    known |= {path.relative_to(ROOT).as_posix() for folder in COPIED for path in (ROOT / folder).rglob("*.md")}
    known |= {*SINGLE.values(), *pages.MADE, "tutorial.md"}
    known -= {one for one in known if one.startswith("_site/")}
    left = known - set(_named(NAV))
    config.nav = list(_filled(NAV, left))
    return config


def _named(entries: list[Any]) -> Iterator[str]:
    for one in entries:
        if isinstance(one, dict):
            for below in one.values():
                yield from _named(below)
        elif "*" not in one:
            yield one


def _filled(entries: list[Any], left: set[str]) -> Iterator[Any]:
    for one in entries:
        if isinstance(one, dict):
            yield {name: list(_filled(below, left)) for name, below in one.items()}
        elif "*" in one:
            pattern = re.compile(".*" if one == "**" else re.escape(one).replace(r"\*", "[^/]*"))
            found = sorted(name for name in left if pattern.fullmatch(name))
            left.difference_update(found)
            yield from found
        else:
            yield one


def on_files(files: Files, config: Any) -> Files:
    """Add what is not below docs/: cards and benchmarks, the board, and the pages that are made now."""
    for folder in COPIED:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in PAGES:
                _add(files, config, path.relative_to(ROOT).as_posix(), path=path)
    for path in sorted((ROOT / "leaderboard" / "rows").rglob("*")):
        if path.is_file():
            _add(files, config, f"board/rows/{path.relative_to(ROOT / 'leaderboard' / 'rows').as_posix()}", path=path)
    _add(files, config, BOARD, path=ROOT / "leaderboard" / "index.html")
    for name in OWN:
        _add(files, config, f"assets/{name}", path=ROOT / "docs" / "_site" / name)
    for source, target in SINGLE.items():
        _add(files, config, target, path=ROOT / source)
    for name, make in pages.MADE.items():
        _add(files, config, name, content=make(ROOT))
    for name, content in run_notebook.run(ROOT / "docs" / "tutorial.ipynb"):
        _add(files, config, name, content=content)
    return files


def _add(files: Files, config: Any, name: str, *, path: Path | None = None, content: str | bytes | None = None) -> None:
    if path is not None:
        content = path.read_text(encoding="utf-8") if path.suffix == ".md" else path.read_bytes()
    files.append(File.generated(config, name, content=content))


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links lead where they lead in the repository; a method's card has its settings and its citation below it."""
    name = page.file.src_uri
    if card := re.fullmatch(r"methods/([^/]+)/README\.md", name):
        markdown += pages.below_card(card[1])
    parts = re.split(r"(^```.*?^```\s*$|`[^`\n]+`)", markdown, flags=re.MULTILINE | re.DOTALL)
    parts[::2] = [re.sub(r"(\]\()([^)\s]+)(\))", lambda found: _link(found, name), part) for part in parts[::2]]
    return "".join(parts)


def _link(found: re.Match[str], name: str) -> str:
    """A link on the page ``name``, as the site has its target; else to the repository; else as it is, which is told."""
    target, mark, anchor = found[2].partition("#")
    if not target or re.match(r"[a-z]+:", target):
        return found[0]
    place = posixpath.normpath(posixpath.join(_folder(name), target))
    page = _page(place)
    if page is not None:
        return f"{found[1]}{posixpath.relpath(page, posixpath.dirname(name) or '.')}{mark}{anchor}{found[3]}"
    if (ROOT / place).exists():
        return f"{found[1]}{REPOSITORY}{place}{mark}{anchor}{found[3]}"
    return found[0]


def _folder(name: str) -> str:
    """The folder of the repository from which the links of a page count."""
    if name in ("start.md", *SINGLE.values()):
        return ""
    return posixpath.dirname(name if name.startswith(COPIED) else f"docs/{name}")


def _page(place: str) -> str | None:
    """Where the site has a place of the repository; None: it does not."""
    if place in MOVED:
        return MOVED[place]
    if place in COPIED or (place.startswith(COPIED) and (ROOT / place).is_dir()):
        place += "/README.md"
    if place.startswith(COPIED):
        return place if (ROOT / place).suffix in PAGES and (ROOT / place).is_file() else None
    below = place.removeprefix("docs/")
    made = below in pages.MADE or below in MOVED.values()
    return below if place != below and (made or (ROOT / place).is_file()) else None


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Names in docstrings as code, without the roles of another documentation tool."""
    return re.sub(r":(?:class|func|data|meth|mod|attr|exc):<code>~?([^<]+)</code>", r"<code>\1</code>", html)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Nothing is loaded from elsewhere when a page is read.

    Raises:
        RuntimeError: the theme loads something that is not known here.
    """
    output = output.replace(SHIM, f'<script src="{_own(page, "from-disk.js")}"></script>')
    if found := re.search(r"<(?:script|img|iframe|link)[^>]*(?:src|href)=[\"']?(?:https?:)?//[^>]*>", output):
        raise RuntimeError(f"{page.file.src_uri}: {found[0][:120]} would be loaded from elsewhere")
    return output


def _own(page: Any, name: str) -> str:
    return posixpath.relpath(f"assets/{name}", posixpath.dirname(page.file.dest_uri) or ".")
