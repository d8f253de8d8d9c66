"""The generated files: ``LEADERBOARD.md`` and a self-contained ``index.html``. Same results, same bytes."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ddbench.leaderboard import markdown
from ddbench.leaderboard.images import png_size, published_png
from ddbench.leaderboard.rows import Row, build_cells
from ddbench.leaderboard.schema import Result, is_url, load_results, result_path, students, values
from ddbench.leaderboard.view import (
    Table,
    budget_text,
    bytes_text,
    commands,
    lay_out,
    number_text,
    seconds_text,
    statistics_text,
)
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import write_text

PAGES = ("LEADERBOARD.md", "index.html")
MAX_INLINE_BYTES = 1_500_000
"""Bound on all previews inside the page together, as base64 text."""
SHOWN_WIDTH = 360


def tables(root: Path) -> list[Table]:
    """The board of a folder, laid out.

    Raises:
        UserError: no such folder, or a result is refused.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such leaderboard folder; `ddbench submit RUN --leaderboard {root}` makes one")
    return [lay_out(cell) for cell in build_cells(load_results(root))]


def render(root: Path) -> dict[Path, str]:
    """The text of every generated file of the board at ``root``.

    Raises:
        UserError: no such folder, or a result or preview is refused.
    """
    board = tables(root)
    rows = {row.first["id"]: row for table in board for row, _ in table.lines}
    environment = _environment()
    style, script = _asset("style.css"), _asset("board.js")
    context = {
        "tables": board,
        "previews": _previews(root, board),
        "datasets": sorted({table.cell.dataset for table in board}),
        "budgets": _budgets(board),
        "results": len({result["id"] for row in rows.values() for result in row.results}),
        "earlier": sum(row.earlier for row in rows.values()),
        "style": Markup(style),
        "script": Markup(script),
        "policy": (
            f"default-src 'none'; img-src data:; style-src '{_source_hash(style)}'; "
            f"script-src '{_source_hash(script)}'; base-uri 'none'; form-action 'none'"
        ),
    }
    return {root / page: environment.get_template(f"{page}.j2").render(context) for page in PAGES}


def build(root: Path) -> list[Path]:
    """Write ``LEADERBOARD.md`` and ``index.html``; returns their paths.

    Raises:
        UserError: as :func:`render`, or the folder cannot be written to.
    """
    pages = render(root)
    for path, text in pages.items():
        write_text(path, text)
    return list(pages)


def check(root: Path) -> list[Path]:
    """Compare the generated files with a fresh build; returns their paths.

    Raises:
        UserError: as :func:`render`, or a file is missing or differs.
    """
    pages = render(root)
    for path, text in pages.items():
        if not path.is_file() or path.read_bytes() != text.encode():
            state = "differs from a fresh build" if path.is_file() else "is missing"
            raise UserError(f"{path} {state}: run `ddbench leaderboard build --leaderboard {root}` and commit it")
    return list(pages)


def _asset(name: str) -> str:
    return (files("ddbench.leaderboard") / "templates" / name).read_text(encoding="utf-8")


def _source_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ddbench.leaderboard"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": markdown.escape, "mdlink": markdown.link, "budget": budget_text}
    environment.globals |= {
        "facts": facts,
        "alt": alt_text,
        "is_url": is_url,
        "result_path": lambda result: result_path(result).as_posix(),
    }
    return environment


def _budgets(board: Sequence[Table]) -> list[str]:
    found = {(table.cell.budget["unit"], table.cell.budget["value"]): table.cell.budget for table in board}
    return list(dict.fromkeys(budget_text(budget) for _, budget in sorted(found.items())))


def _previews(root: Path, board: Sequence[Table]) -> dict[str, dict[str, Any]]:
    """Result id -> preview as a ``data:`` address with its size, or a note that it was left out."""
    found: dict[str, dict[str, Any]] = {}
    room = MAX_INLINE_BYTES
    for table in board:
        for row, _ in table.lines:
            path = (root / result_path(row.first)).with_suffix(".png")
            if row.full or row.first["id"] in found or not path.is_file():
                continue
            data = published_png(path)
            address = f"data:image/png;base64,{base64.b64encode(data).decode()}"
            preview: dict[str, Any] = {"row": row, "address": None, "size": bytes_text(len(data))}
            if len(address) <= room:
                room -= len(address)
                width, height = png_size(data, str(path))
                factor = max(1, SHOWN_WIDTH // width)
                preview |= {"address": address, "width": width * factor, "height": height * factor}
            found[row.first["id"]] = preview
    return found


def facts(result: Result) -> dict[str, Any]:
    """Everything that an opened row shows of one result, as text."""
    synset, cost = result["synset"], result["cost"]
    return {
        "commands": commands(result),
        "config": json.dumps(synset["config"], sort_keys=True, indent=1),
        "settings": json.dumps(result["protocol"]["settings"], sort_keys=True, indent=1),
        "changed": ", ".join(f"{name} = {json.dumps(v)}" for name, v in sorted(result["protocol"]["changed"].items())),
        "runs": _runs(result),
        "claims": [
            claim | {"text": number_text(claim["value"], result["metrics"][claim["metric"]]["unit"])}
            for claim in result["submission"]["claims"]
        ],
        "bytes": ", ".join(
            f"{part} {synset['bytes'][part]:,}"
            for part in ("images", "labels", "augmentation", "teacher", "other", "total", "real")
        ),
        "preprocess": json.dumps(synset["preprocess"], sort_keys=True),
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(result["versions"].items())),
        "cost": [
            (stage, _cost_text(cost[key])) for stage, key in (("distillation", "distill"), ("evaluation", "evaluate"))
        ],
    }


def _runs(result: Result) -> list[dict[str, Any]]:
    """A line for each student and metric: summary and every single run."""
    lines = []
    for student in students(result):
        for metric, statistics in sorted(result["summary"][student].items()):
            described = result["metrics"][metric]
            lines.append(
                {
                    "student": student,
                    "metric": described["title"],
                    "summary": statistics_text(statistics, described["unit"]),
                    "values": [
                        (seed, number_text(value, described["unit"]))
                        for seed, value in sorted(values(result, student, metric).items())
                    ],
                }
            )
    return lines


def _cost_text(cost: dict[str, Any] | None) -> str:
    if cost is None:
        return "not recorded"
    parts = [cost["device"], f"{seconds_text(cost['cpu_seconds'])} CPU", f"{seconds_text(cost['wall_seconds'])} wall"]
    if "cores" in cost:
        parts.insert(1, f"{cost['cores']} cores")
    if "peak_memory_bytes" in cost:
        parts.append(f"peak memory {bytes_text(cost['peak_memory_bytes'])}")
    return ", ".join(parts)


def alt_text(row: Row) -> str:
    """Alternative text of a preview."""
    synset = row.first["synset"]
    return f"Preview of the synset by {synset['method']} on {synset['dataset']}: {synset['images']} images"
