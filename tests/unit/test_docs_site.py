"""The site's hook: its menu, links and made pages; the examples of docs/own-method.md and docs/data.md."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import TINY, evaluate_tiny, random_tiny

import ddbench

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="an unpacked source distribution has no docs/")


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``docs/_site/hook.py``, as MkDocs imports it."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("nbclient")
    monkeypatch.syspath_prepend(str(DOCS / "_site"))
    found = importlib.import_module("hook")
    yield found
    for name in ("hook", "made_pages", "run_notebook"):
        sys.modules.pop(name, None)


def code_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]


def test_the_method_of_the_page(ddb: Callable, tmp_path: Path, tables_kept: None):
    (tmp_path / "mine.py").write_text(code_of("own-method.md"))
    method = ("--method", "mixtures", "--method-file", tmp_path / "mine.py", "--group", 4)
    found = ddb(*random_tiny(tmp_path / "run")[:1], *method, *random_tiny(tmp_path / "run")[3:])
    assert found.code == 0, found.err
    found = ddb(*evaluate_tiny(tmp_path / "run"))
    assert found.code == 0, found.err
    assert TINY in found.out


def test_the_arrays_of_the_page(ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code_of("data.md"), "data.md", "exec"), {})
    found = ddb("data", "check", "npz:own.npz")
    assert found.code == 0, found.err
    assert "npz:own.npz: 4 classes, 160 training and 40 test images" in found.out


def pages_of(nav: list[Any]) -> list[str]:
    """The pages of a menu, in order."""
    found: list[str] = []
    for entry in nav:
        found += [one for below in entry.values() for one in pages_of(below)] if isinstance(entry, dict) else [entry]
    return found


def test_tables_end_where_their_rows_end():
    """What follows a row without an empty line would become a row itself."""
    pages = sorted(DOCS.rglob("*.md"))
    assert len(pages) > 20
    for page in pages:
        lines = page.read_text(encoding="utf-8").splitlines()
        for row, line in pairwise(lines):
            assert not row.startswith("|") or not line or line.startswith("|"), f"{page}: {line}"


def test_every_page_is_in_the_menu_once(hook: Any):
    found = pages_of(hook.on_config(SimpleNamespace()).nav)
    assert len(found) == len(set(found))
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if "_site" not in path.parts}
    cards = {path.relative_to(ROOT).as_posix() for path in (ROOT / "methods").rglob("*.md")}
    assert written | cards | {"reference/cli.md", "contributing.md", "tutorial.md"} <= set(found)
    assert not [name for name in found if "*" in name]


def test_links_lead_somewhere(hook: Any):
    """What `mkdocs build --strict` would refuse, but for anchors."""
    on_site = {*pages_of(hook.on_config(SimpleNamespace()).nav), hook.BOARD}
    sources = {name: ROOT / name if name.startswith(hook.COPIED) else DOCS / name for name in on_site}
    sources |= {target: ROOT / source for source, target in hook.SINGLE.items()}
    looked_at = 0
    for name, path in sources.items():
        if path.suffix != ".md" or not path.is_file():
            continue
        at = SimpleNamespace(file=SimpleNamespace(src_uri=name))
        text = hook.on_page_markdown(path.read_text(encoding="utf-8"), at, None, None)
        prose = re.sub(r"^```.*?^```\s*$|`[^`\n]+`", "", text, flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s#]+)", prose):
            looked_at += 1
            if target.startswith(hook.REPOSITORY):
                assert (ROOT / target.removeprefix(hook.REPOSITORY)).exists(), (name, target)
            elif not re.match("[a-z]+:", target):
                place = hook.posixpath.normpath(hook.posixpath.join(hook.posixpath.dirname(name), target))
                picture = (DOCS / place).is_file() or (ROOT / place).is_file()
                assert place in on_site or (place.endswith((".png", ".svg")) and picture), (name, target)
    assert looked_at > 100


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("files.md", "scores.md#x", "scores.md#x"),
        ("protocols/mtt.md", "../scores.md", "../scores.md"),
        ("digits.md", "../methods/mtt/README.md", "methods/mtt/README.md"),
        ("digits.md", "../README.md", "start.md"),
        ("digits.md", "../leaderboard/LEADERBOARD.md", "board/index.html"),
        (
            "own-method.md",
            "../ddbench/methods/dm.py",
            "https://github.com/ddbench/ddbench/blob/main/ddbench/methods/dm.py",
        ),
        ("methods/mtt/README.md", "../../docs/files.md", "../../files.md"),
        ("start.md", "docs/files.md", "files.md"),
        ("start.md", "methods/", "methods/README.md"),
        ("contributing.md", "docs/architecture.md", "architecture.md"),
        ("files.md", "https://example.org/a.md", "https://example.org/a.md"),
        ("files.md", "nowhere.md", "nowhere.md"),
        ("files.md", "#here", "#here"),
    ],
)
def test_links(hook: Any, page: str, link: str, expected: str):
    at = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    found = hook.on_page_markdown(f"a [b]({link}) `[c]({link})`", at, None, None)
    assert found.startswith(f"a [b]({expected}) `[c]({link})`")


def test_nothing_is_loaded_from_elsewhere(hook: Any):
    at = SimpleNamespace(file=SimpleNamespace(src_uri="reference/cli.md", dest_uri="reference/cli.html"))
    assert hook.on_post_page(f"<p>{hook.SHIM}</p>", at, None) == '<p><script src="../assets/from-disk.js"></script></p>'
    assert "example.org" in hook.on_post_page('<a href="https://example.org">x</a>', at, None)
    for loaded in (
        '<script src="https://a.org/x.js">',
        "<link rel=stylesheet href=//a.org/x.css>",
        '<img src="http://a.org/x.png">',
    ):
        with pytest.raises(RuntimeError, match=r"reference/cli.md: .* loaded from elsewhere"):
            hook.on_post_page(loaded, at, None)


def test_made_pages(hook: Any):
    from ddbench.cli.completion import ARGS, options
    from ddbench.cli.main import VERBS
    from ddbench.methods import shipped

    made = {name: make(ROOT) for name, make in hook.pages.MADE.items()}
    for verb in VERBS:
        assert f"## ddbench {verb} " in made["reference/cli.md"]
    for verb in ARGS:
        for option in options(verb)[:-1]:
            assert f"`{option.name}" in made["reference/cli.md"], (verb, option)
    assert made["reference/api.md"].count(":::") == len(ddbench.__all__) - 1
    assert "@inproceedings{cazenavette2022mtt," in made["reference/bibtex.md"]
    for name in shipped():
        card = hook.pages.below_card(name)
        assert f"`ddbench distill --method {name}`" in card
    assert "Needed beforehand: experts" in hook.pages.below_card("mtt")
    assert "`--iterations INT`" in hook.pages.below_card("mtt")
    assert made["start.md"].startswith("# Getting started\n\n## Two commands")
    table = made["which-method.md"]
    assert "| [MTT](../methods/mtt/README.md) |" in table
    assert "| experts |" in table
    assert "| nothing |" in table
    assert "nan" not in table


def test_the_tutorial_is_kept_without_outputs():
    cells = json.loads((DOCS / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_outputs_of_the_tutorial(hook: Any):
    shown = hook.run_notebook._shown
    stream = SimpleNamespace(output_type="stream", name="stdout", text="a\n")
    assert shown(stream) == ("```text\na\n```", b"")
    assert shown(SimpleNamespace(output_type="stream", name="stderr", text="a\n")) == ("", b"")

    class Result(dict[str, Any]):
        output_type = "execute_result"

    assert shown(Result(data={"image/png": "YQ==", "text/plain": "x"})) == ("", b"a")
    assert shown(Result(data={"text/plain": "x"})) == ("```text\nx\n```", b"")
