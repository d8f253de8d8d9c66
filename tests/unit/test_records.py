"""A row and a verification as records: JSON in, the same JSON out; and what reading a board loads."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import MISSING, FrozenInstanceError, fields
from importlib.resources import files
from pathlib import Path

import pytest
from conftest import PATIENCE
from made_board import made_result, put

from ddbench.leaderboard.result import (
    Budget,
    CodeInfo,
    Costs,
    ProtocolInfo,
    Result,
    Scores,
    Stored,
    SubmissionInfo,
    SynsetInfo,
)
from ddbench.leaderboard.schema import check_result, load_results, read_result, result_id, result_path
from ddbench.leaderboard.verification import load_verifications, verification_path
from ddbench.runtime.files import canonical_json

BOARD = Path(__file__).parents[2] / "leaderboard"


def as_written(content: object) -> bytes:
    return (json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def test_every_committed_row_comes_back_byte_for_byte() -> None:
    results = load_results(BOARD)
    assert len(results) > 80
    for result in results:
        path = BOARD / result_path(result)
        assert as_written(result.to_json()) == path.read_bytes(), path
        assert result.id == result_id(result.to_json()) == path.stem


def test_every_committed_verification_comes_back_byte_for_byte() -> None:
    results = load_results(BOARD)
    verifications = load_verifications(BOARD, results)
    assert verifications
    for result in results:
        if result.id in verifications:
            path = verification_path(BOARD, result)
            assert as_written(verifications[result.id].to_json()) == path.read_bytes(), path


def full_result() -> dict[str, object]:
    """A row that has every part that a row may leave out."""
    content = made_result().to_json()
    content["submission"] |= {"synset_url": "https://example.org/s", "teacher_url": "https://example.org/t"}
    content["submission"] |= {"labels_url": "https://example.org/l", "labels_sha256": "1" * 64}
    content["submission"]["links"] = ["https://example.org/paper"]
    content["teacher"] = {"sha256": "2" * 64, "student": "convnet-d1-w128-bn", "accuracy": 0.9}
    content["labels"] = {"synset_sha256": "3" * 64, "teacher": {}, "views": {}, "seed": 0, "epochs": 1, "bytes": 4}
    content["synset"]["fixed_network"] = True
    content["recipe"] = {"threads": 1, "experts": None}
    state = {"version": "1", "commit": None, "dirty": None}
    content["code"] = {**state, "method_file": None, "also": [{**state, "commit": "4" * 40, "dirty": True}]}
    content["cost"] = {"distill": None, "evaluate": {**content["cost"]["evaluate"], "runs": [{"seed": 0}]}}
    content["id"] = result_id(content)
    return content


def test_every_optional_part_comes_back() -> None:
    content = full_result()
    result = check_result(content, "row")
    assert canonical_json(result.to_json()) == canonical_json(content)
    assert isinstance(result.code, CodeInfo)
    assert result.code.also is not None
    assert result.code.also[0].dirty is True
    assert result.cost.evaluate is not None
    assert result.cost.evaluate.more == {"runs": [{"seed": 0}]}


@pytest.mark.parametrize("name", ["details", "measured", "recipe", "scores", "code"])
def test_an_empty_part_is_no_missing_part(name: str) -> None:
    """What a row leaves out stays out; what it has and leaves empty stays in."""
    content = full_result()
    if name not in ("scores", "code"):
        assert Result.from_json(content | {name: {}}).to_json()[name] == {}
    del content[name]
    assert name not in Result.from_json(content).to_json()


RECORDS = {
    "": Result,
    "submission": SubmissionInfo,
    "synset": SynsetInfo,
    "synset.budget": Budget,
    "synset.bytes": Stored,
    "protocol": ProtocolInfo,
    "scores": Scores,
    "code": CodeInfo,
    "cost": Costs,
}
"""Place in the schema -> the record that reads it; the rest are lists and tables of such."""


@pytest.mark.parametrize("place", RECORDS)
def test_the_schema_and_the_records_know_the_same_fields(place: str) -> None:
    """Names, and which of them may be left out."""
    schema = json.loads((files("ddbench.leaderboard") / "result.schema.json").read_text())
    part = schema
    for name in filter(None, place.split(".")):
        part = part["properties"][name]
    required = set(part["required"]) | set(schema["$defs"]["code"]["required"] if place == "code" else ())
    own = {field.name: field.default is MISSING for field in fields(RECORDS[place])}
    if not place:
        own |= {"kind": True, "schema": True}
    assert set(own) == set(part["properties"])
    assert {name for name, needed in own.items() if needed} == required


def test_a_row_cannot_be_changed(tmp_path: Path) -> None:
    result = read_result(put(tmp_path, made_result()))
    with pytest.raises(FrozenInstanceError):
        result.threads = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        result.synset.seed = 2  # type: ignore[misc]


READING = {
    "rows": "import ddbench.leaderboard.rows",
    "board": "import ddbench.leaderboard.board",
    "page": "import ddbench.leaderboard.pages.page",
    "show": (
        "from ddbench.cli import leaderboard; import contextlib, io\n"
        "with contextlib.redirect_stdout(io.StringIO()): leaderboard.main(['show', '--leaderboard', BOARD])"
    ),
    "check": (
        "from ddbench.cli import leaderboard; import contextlib, io\n"
        "with contextlib.redirect_stdout(io.StringIO()): leaderboard.main(['check', '--leaderboard', BOARD])"
    ),
}


@pytest.mark.parametrize("name", READING)
def test_reading_a_board_imports_neither_submitting_nor_training(name: str) -> None:
    """In a fresh interpreter."""
    code = f"import sys\nBOARD = {str(BOARD)!r}\n{READING[name]}\nprint('\\n'.join(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE)
    loaded = set(found.stdout.split())
    assert "ddbench.leaderboard.rows" in loaded or name == "check"
    forbidden = {"torch", *(f"ddbench.leaderboard.{part}" for part in ("submit", "packing", "retrain", "references"))}
    assert not loaded & forbidden
