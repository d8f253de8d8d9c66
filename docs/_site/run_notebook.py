"""The tutorial: a notebook that is run while the site is built, in an empty folder; its figures are that run's."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

SECONDS = 300
"""A cell takes no longer."""


def run(path: Path) -> Iterator[tuple[str, str | bytes]]:
    """Execute a notebook; names and contents of the page and of its pictures.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    book = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in book.cells), f"{path} is kept without outputs"
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("DDBENCH_DATA", str(Path(folder, "data")))
        place = {"metadata": {"path": folder}}
        NotebookClient(book, timeout=SECONDS, kernel_name="python3", resources=place).execute()
    parts, pictures = [], {}
    for number, cell in enumerate(book.cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for place, output in enumerate(cell.outputs):
            text, picture = _shown(output)
            if picture:
                name = f"tutorial-{number}-{place}.png"
                pictures[name] = picture
                text = f"![What cell {number} shows]({name})"
            parts.append(text)
    yield f"{path.stem}.md", "\n\n".join(part for part in parts if part) + "\n"
    yield from pictures.items()


def _shown(output: Any) -> tuple[str, bytes]:
    """An output as Markdown, or the bytes of its picture."""
    if output.output_type == "stream":
        return (_block(output.text), b"") if output.name == "stdout" else ("", b"")
    data = output.get("data", {})
    if "image/png" in data:
        return "", base64.b64decode(data["image/png"])
    return _block(data.get("text/plain", "")), b""


def _block(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""
