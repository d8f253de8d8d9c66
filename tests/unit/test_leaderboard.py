"""Result files and submissions: round trips, identity, and everything that must be refused."""

from __future__ import annotations

import hashlib
import io
import json
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from ddbench.cli import submit as submit_verb
from ddbench.leaderboard.images import clean_png, published_png
from ddbench.leaderboard.result import Run
from ddbench.leaderboard.schema import (
    MAX_RESULT_BYTES,
    is_url,
    load_results,
    read_result,
    result_folder,
    result_id,
    result_path,
    slug,
    summary_of,
    write_result,
)
from ddbench.leaderboard.submit import Submission, make_result, parse_claim, plan_submission, write_plan
from ddbench.protocols.protocol import PROTOCOLS
from ddbench.protocols.protocol import changed as altered
from ddbench.runtime.errors import UserError

CONVNET, MLP = "convnet-d3-w32-in", "mlp-d3-w128"
ACCURACIES = {CONVNET: [0.881, 0.887, 0.893], MLP: [0.79, 0.81, 0.80]}


def png(width: int = 40, height: int = 16, **options: Any) -> bytes:
    """A small picture with something to see."""
    picture = Image.new("RGB", (width, height))
    picture.putdata([(x * 6 % 256, y * 15 % 256, (x * y) % 256) for y in range(height) for x in range(width)])
    stream = io.BytesIO()
    picture.save(stream, "PNG", **options)
    return stream.getvalue()


def synset_bytes(said: dict[str, Any], **changes: Any) -> bytes:
    """A synset file of black pixels that says of itself what a result says; ``changes`` alter its header.

    Its labels are hard ones; a learned rate is there where the result has one.
    """
    header = {
        "kind": "ddbench-synset",
        "schema": 1,
        "space": "pixels",
        "label_kind": "hard",
        "class_names": [str(label) for label in range(said["classes"])],
        "augmentation": "dsa",
        "versions": {},
        "parents": {},
    }
    names = (
        "modality",
        "preprocess",
        "budget",
        "dataset",
        "dataset_fingerprint",
        "method",
        "config",
        "seed",
        "student",
    )
    header |= {name: said[name] for name in names} | changes
    shape = [said["images"], *said["shape"]]
    labels = [label * said["classes"] // said["images"] for label in range(said["images"])]
    tensors = {
        "labels": ("I64", [said["images"]], struct.pack(f"<{said['images']}q", *labels)),
        "images": ("U8", shape, bytes(math.prod(shape))),
    }
    if said["learned_lr"] is not None:
        tensors["lr"] = ("F32", [], struct.pack("<f", said["learned_lr"]))
    return safetensors(tensors, header)


def safetensors(tensors: dict[str, tuple[str, list[int], bytes]], header: Any) -> bytes:
    """A safetensors file, written from the format's description."""
    table: dict[str, Any] = {"__metadata__": {"ddbench": json.dumps(header)}}
    data = b""
    for name, (dtype, shape, values) in tensors.items():
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def make_run(
    folder: Path,
    accuracies: dict[str, list[float]] | None = None,
    *,
    method: str = "mtt",
    dataset: str = "digits",
    budget: tuple[str, int] = ("ipc", 1),
    seed: int = 0,
    student: str | None = CONVNET,
    changed: dict[str, Any] | None = None,
    content: bytes | None = None,
    preview: bytes | None = None,
    seconds: float = 12.5,
) -> Path:
    """A run folder as ``ddbench distill`` and ``ddbench evaluate`` leave it."""
    runs = [
        {"student": name, "seed": number, "metrics": {"accuracy": value}}
        for name, values in (accuracies or ACCURACIES).items()
        for number, value in enumerate(values)
    ]
    protocol = "hard-v1" if not changed else "hard-v1-nonstandard"
    settings = {name: value for name, value in (changed or {}).items() if name != "max_images"}
    used, _ = altered(PROTOCOLS["hard-v1"], **settings)
    images = 10 * budget[1] if budget[0] == "ipc" else budget[1]
    stored = {"images": images * 64, "labels": images, "augmentation": 0, "teacher": 0, "other": 4}
    evaluation: dict[str, Any] = {
        "kind": "ddbench-evaluation",
        "schema": 1,
        "synset": {
            "sha256": "",
            "method": method,
            "dataset": dataset,
            "dataset_fingerprint": hashlib.sha256(dataset.encode()).hexdigest(),
            "modality": "image",
            "budget": {"unit": budget[0], "value": budget[1]},
            "classes": 10,
            "shape": [1, 8, 8],
            "images": images,
            "decoded_images": images,
            "label_kind": "hard",
            "student": student,
            "seed": seed,
            "preprocess": {"kind": "meanstd", "mean": [0.3], "std": [0.38]},
            "config": {"iterations": 1000, "lr_image": 100.0},
            "learned_lr": 0.02,
            "bytes": {**stored, "total": sum(stored.values()), "real": 83008, "real_images": 1297},
        },
        "teacher": None,
        "labels": None,
        "protocol": {
            "name": "hard-v1",
            "hash": used.hash,
            "standard": not changed,
            "changed": changed or {},
            "settings": used.settings(),
        },
        "learning_rates": {
            name: {"rate": 0.02, "source": "synset", "searched": {}} for name in accuracies or ACCURACIES
        },
        "runs": runs,
        "summary": summary_of([Run(**run) for run in runs]),
        "metrics": {"accuracy": {"unit": "fraction", "better": "higher", "title": "Test accuracy"}},
        "precision": "float32",
        "threads": 1,
        "at_once": 1,
        "versions": {"ddbench": "0.1.0", "torch": "2.15.0", "numpy": "2.4.6", "python": "3.11.7"},
    }
    content = synset_bytes(evaluation["synset"]) if content is None else content
    evaluation["synset"]["sha256"] = hashlib.sha256(content).hexdigest()
    cost = {
        "device": "cpu: Example 3000",
        "cores": 2,
        "wall_seconds": seconds,
        "cpu_seconds": 2 * seconds,
        "peak_memory_bytes": 300_000_000,
    }
    (folder / "evaluations").mkdir(parents=True, exist_ok=True)
    (folder / "synset.safetensors").write_bytes(content)
    (folder / "preview.png").write_bytes(png() if preview is None else preview)
    (folder / "cost.json").write_text(json.dumps({**cost, "iterations": 1000}))
    (folder / f"evaluations/{protocol}.json").write_text(json.dumps(evaluation))
    (folder / f"evaluations/{protocol}.cost.json").write_text(json.dumps({**cost, "runs": []}))
    return folder


def submit(run: Path, board: Path, submission: Submission | None = None) -> Path:
    """Submit a run; the path of its result."""
    plan = plan_submission(run, board, make_result(run, None, submission))
    write_plan(plan)
    return plan.path


def refused(path: Path, *words: str) -> None:
    """Reading ``path`` is refused in words that name it."""
    with pytest.raises(UserError) as caught:
        read_result(path)
    for word in (path.name, *words):
        assert word in str(caught.value)


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def board(tmp_path: Path) -> Path:
    return tmp_path / "board"


@pytest.fixture
def row(tmp_path: Path, board: Path) -> Path:
    """A result on the board."""
    return submit(make_run(tmp_path / "run"), board)


def test_submit_writes_result_preview_and_synset(tmp_path: Path, board: Path, row: Path) -> None:
    result = read_result(row)
    assert row == board / "results/digits/ipc1/mtt" / f"{result.id}.json"
    assert row.with_suffix(".png").is_file()
    synset = row.with_name(f"{row.stem}.synset.safetensors")
    assert hashlib.sha256(synset.read_bytes()).hexdigest() == result.synset.sha256
    assert result.cost.distill.more["iterations"] == 1000
    assert load_results(board) == [result]
    again = board / "again.json"
    write_result(again, result)
    assert again.read_bytes() == row.read_bytes()


def test_id_names_the_numbers_not_the_cost(tmp_path: Path) -> None:
    fast, slow = make_run(tmp_path / "fast", seconds=1.0), make_run(tmp_path / "slow", seconds=99.0)
    assert make_result(fast).id == make_result(slow).id
    other = make_run(tmp_path / "other", {CONVNET: [0.881, 0.887, 0.894]})
    assert make_result(fast).id != make_result(other).id
    assert make_result(fast).id != make_result(fast, None, Submission(note="another")).id


def test_submitting_twice_changes_nothing(
    tmp_path: Path, board: Path, row: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(board)
    submit_verb.main([str(make_run(tmp_path / "run", seconds=55.0)), "--leaderboard", str(board)])
    assert "already there" in capsys.readouterr().out
    assert everything(board) == before


def test_more_runs_supersede_fewer(tmp_path: Path, board: Path, row: Path) -> None:
    more = make_run(tmp_path / "run", {name: [*values, 0.8] for name, values in ACCURACIES.items()})
    new = submit(more, board)
    assert read_result(new).supersedes == row.stem
    make_run(tmp_path / "run", {CONVNET: [0.5]})
    with pytest.raises(UserError, match="8 runs of this synset"):
        submit(tmp_path / "run", board)
    assert submit(make_run(tmp_path / "run"), board) == row  # the first one again: known, though superseded
    assert len(load_results(board)) == 2


def test_students_are_not_lost_to_a_row_with_more_runs(tmp_path: Path, board: Path, row: Path) -> None:
    assert len(read_result(row).runs) < 10
    make_run(tmp_path / "run", {CONVNET: [0.5 + 0.01 * seed for seed in range(10)]})
    with pytest.raises(UserError, match=rf"{row.stem}\) has {MLP}, .* --students {CONVNET},{MLP}, then submit"):
        submit(tmp_path / "run", board)
    assert len(load_results(board)) == 1


def test_seeds_are_not_lost_to_a_row_with_more_students(tmp_path: Path, board: Path) -> None:
    old = submit(make_run(tmp_path / "run", {CONVNET: [0.5, 0.6, 0.7]}), board)
    make_run(tmp_path / "run", {CONVNET: [0.5, 0.6], MLP: [0.4, 0.5]})
    with pytest.raises(UserError, match=rf"{old.stem}\) has seed 2 of {CONVNET}, .* {CONVNET},{MLP} --seeds 3, then"):
        submit(tmp_path / "run", board)
    assert submit(make_run(tmp_path / "run", {CONVNET: [0.5, 0.6, 0.7], MLP: [0.4, 0.5]}), board) != old


def test_one_run_decides_what_supersedes(tmp_path: Path, board: Path) -> None:
    """One run more or as many (other ones) supersede, one run less does not."""
    paths = [submit(make_run(tmp_path / "run", {CONVNET: [0.5, 0.6]}), board)]
    for values in ([0.5, 0.6, 0.7], [0.5, 0.6, 0.8]):
        paths.append(submit(make_run(tmp_path / "run", {CONVNET: values}), board))
        assert read_result(paths[-1]).supersedes == paths[-2].stem
    before = everything(board)
    for values in ([0.5, 0.9], [0.5]):
        with pytest.raises(UserError, match=rf"the board has 3 runs .*this evaluation has {len(values)}:"):
            submit(make_run(tmp_path / "run", {CONVNET: values}), board)
    assert everything(board) == before


def test_dry_run_writes_nothing(tmp_path: Path, board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", changed={"epochs": 5})
    submit_verb.main([str(run), "--leaderboard", str(board), "--dry-run"])
    said = capsys.readouterr().out
    assert "would write" in said
    assert "non-standard" in said
    assert not board.exists()


def test_flags_reach_the_result(tmp_path: Path, board: Path) -> None:
    flags = ["--name", "MTT", "--author", "A", "--author", "B", "--link", "https://example.org/x?a=1&b=2", "--licence"]
    flags += ["MIT", "--claim", f"{CONVNET}=0.9", "--claim-source", "table 1", "--note", "n", "--code", "http://x.org"]
    submit_verb.main([str(make_run(tmp_path / "run")), "--leaderboard", str(board), *flags])
    (result,) = load_results(board)
    assert result.submission.to_json() == {
        "method_title": "MTT",
        "authors": ["A", "B"],
        "links": ["https://example.org/x?a=1&b=2"],
        "code": "http://x.org",
        "licence": "MIT",
        "note": "n",
        "claims": [{"student": CONVNET, "metric": "accuracy", "value": 0.9, "source": "table 1"}],
    }


def test_full_goes_to_its_own_folder_without_the_images(tmp_path: Path, board: Path) -> None:
    path = submit(make_run(tmp_path / "run", method="full", budget=("all", 1297), student=None), board)
    assert path.parent == board / "results/digits/full/full"
    assert [file for file in board.rglob("*.*") if file.is_file()] == [path]


def test_large_synset_and_preview_are_left_out(tmp_path: Path, board: Path) -> None:
    run = make_run(tmp_path / "run", content=bytes(2_000_001), preview=b"x" * 1_000_001)
    plan = plan_submission(run, board, make_result(run))
    assert not plan.attachments
    assert {item.name for item in plan.items if not item.there} >= {"synset", "preview"}
    assert [item.name for item in plan.lacks] == ["synset"]
    assert "--synset-url" in plan.lacks[0].text


def test_a_preview_of_large_images_is_left_out(tmp_path: Path, board: Path) -> None:
    """Twenty classes of 224 pixels are 4518; the submission was refused, and nothing could be done about it."""
    run = make_run(tmp_path / "run", preview=png(4, 4518))
    (item,) = (item for item in plan_submission(run, board, make_result(run)).items if item.name == "preview")
    assert (item.group, item.there) == ("wanted", False)
    assert item.text == f"{run / 'preview.png'} has more than 4,096 pixels a side"


def test_dataset_from_a_folder_gets_a_slug(tmp_path: Path, board: Path) -> None:
    path = submit(make_run(tmp_path / "run", dataset="folder:../../Etc/My Birds"), board)
    assert path.parent.relative_to(board).as_posix() == "results/folder-etc-my-birds/ipc1/mtt"
    assert load_results(board)
    assert slug("../..") == ""


Change = Callable[[dict[str, Any]], None]
BROKEN: dict[str, tuple[Change, str]] = {
    "newer schema": (lambda r: r.update(schema=2), "newer ddbench"),
    "other kind": (lambda r: r.update(kind="ddbench-evaluation"), "not a result file"),
    "id": (lambda r: r.update(id="0" * 16), "not the hash"),
    "changed text": (lambda r: r["submission"].update(note="better"), "not the hash"),
    "summary": (lambda r: r["summary"][CONVNET]["accuracy"].update(mean=0.95), "does not follow"),
    "summary of nobody": (lambda r: r["summary"].update(x=r["summary"][CONVNET]), "does not follow"),
    "accuracy": (lambda r: r["runs"][0]["metrics"].update(accuracy=1.2), "1.2"),
    "negative": (lambda r: r["runs"][0]["metrics"].update(accuracy=-0.1), "-0.1"),
    "not a number": (lambda r: r["runs"][0]["metrics"].update(accuracy=math.nan), "NaN"),
    "infinite": (lambda r: r["synset"].update(learned_lr=math.inf), "Infinity"),
    "text as number": (lambda r: r["runs"][0]["metrics"].update(accuracy="0.9"), "0.9"),
    "true as number": (lambda r: r["runs"][0]["metrics"].update(accuracy=True), "True"),
    "run twice": (lambda r: r["runs"].append(r["runs"][0]), "twice"),
    "no runs": (lambda r: r.update(runs=[]), "runs"),
    "unknown metric": (lambda r: r["runs"][0]["metrics"].update(ece=0.1), "not described"),
    "run without accuracy": (lambda r: r["runs"][0].update(metrics={"ece": 0.1}), "no accuracy"),
    "path as method": (lambda r: r["synset"].update(method="../../x"), "method"),
    "newline after method": (lambda r: r["synset"].update(method="mtt\n"), "method"),
    "hash": (lambda r: r["synset"].update(sha256="Z" * 64), "sha256"),
    "bytes": (lambda r: r["synset"]["bytes"].update(total=1), "total"),
    "link": (lambda r: r["submission"].update(links=["javascript:alert(1)"]), "links"),
    "long note": (lambda r: r["submission"].update(note="x" * 2001), "note"),
    "escape codes": (lambda r: r["submission"].update(note="\x1b[2J"), "note"),
    "writing direction": (lambda r: r["submission"].update(note="\u202e"), "note"),
    "blank letter": (lambda r: r["submission"].update(method_title="DM\u3164"), "u3164"),
    "budget with a point": (lambda r: r["synset"]["budget"].update(value=10.0), "whole number without a point"),
    "half an image": (lambda r: r["synset"]["budget"].update(value=2.5), "whole number without a point"),
    "all real data of a method": (lambda r: r["synset"].update(budget={"unit": "all", "value": 9}), "not full"),
    "surrogate": (lambda r: r["submission"].update(note="\ud800"), "half a character"),
    "claim for nobody": (
        lambda r: r["submission"]["claims"].append({"student": "x", "metric": "accuracy", "value": 0.5, "source": ""}),
        "not evaluated",
    ),
    "unknown key": (lambda r: r.update(extra=1), "extra"),
    "missing key": (lambda r: r.pop("threads"), "threads"),
    "large config": (lambda r: r["synset"].update(config={"x": "y" * 70_000}), "config"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_results_are_refused(row: Path, name: str) -> None:
    change, word = BROKEN[name]
    result = read_result(row).to_json()
    change(result)
    row.write_text(json.dumps(result))
    refused(row, word)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "not a result file"),
        ('{"kind": "ddbench-result", "sch', "not a result file"),
        ("[1, 2]", "not a result file"),
        ("[" * 100_000, "not a result file"),
        ('{"a":' * 40 + "1" + "}" * 40, "nested"),
        ('{"kind": 1e999}', "finite"),
        ("9" * 5000, "not a result file"),
        (" " * (MAX_RESULT_BYTES + 1), "too large"),
    ],
)
def test_files_that_are_no_results_are_refused(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    refused(path, word)


def test_long_errors_are_cut(row: Path) -> None:
    result = read_result(row).to_json()
    result["submission"]["note"] = ["x" * 100_000]
    row.write_text(json.dumps(result))
    with pytest.raises(UserError) as caught:
        read_result(row)
    assert len(str(caught.value)) < 600


def test_result_in_the_wrong_place_is_refused(board: Path, row: Path) -> None:
    row.rename(row.with_name("0123456789abcdef.json"))
    with pytest.raises(UserError, match="belongs at"):
        load_results(board)


def test_write_refuses_and_writes_nothing(tmp_path: Path, row: Path) -> None:
    result = replace(read_result(row), threads=0)
    result = replace(result, id=result_id(result.to_json()))
    with pytest.raises(UserError, match="threads"):
        write_result(tmp_path / "new" / "x.json", result)
    assert not (tmp_path / "new").exists()


def break_evaluation(run: Path, change: Change) -> None:
    path = run / "evaluations/hard-v1.json"
    evaluation = json.loads(path.read_text())
    change(evaluation)
    path.write_text(json.dumps(evaluation))


def make_second(run: Path) -> None:
    """Another standard evaluation."""
    text = (run / "evaluations/hard-v1.json").read_text()
    (run / "evaluations/dc-legacy.json").write_text(text.replace('"hard-v1"', '"dc-legacy"'))


def make_altered(run: Path) -> None:
    """Two evaluations, both with altered settings."""
    make_run(run, changed={"epochs": 5})
    altered = run / "evaluations/hard-v1-nonstandard.json"
    (run / "evaluations/hard-v1.json").write_bytes(altered.read_bytes())


BAD_RUNS: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "no evaluation": (lambda run: (run / "evaluations/hard-v1.json").unlink(), [], "ddbench evaluate"),
    "no such protocol": (lambda run: None, ["--protocol", "hard-v2"], "did you mean 'hard-v1'"),
    "two": (lambda run: make_second(run), [], "choose one with --protocol"),
    "two altered": (lambda run: make_altered(run), [], "choose one with --protocol, none of them standard"),
    "other synset": (lambda run: (run / "synset.safetensors").write_bytes(b"x"), [], "another synset"),
    "no synset": (lambda run: (run / "synset.safetensors").unlink(), [], "no such synset"),
    "newer": (lambda run: break_evaluation(run, lambda e: e.update(schema=2)), [], "newer"),
    "part": (lambda run: break_evaluation(run, lambda e: e.pop("runs")), [], "runs missing"),
    "accuracy": (lambda run: break_evaluation(run, lambda e: e["runs"][0]["metrics"].update(accuracy=2)), [], "2"),
    "summary": (lambda run: break_evaluation(run, lambda e: e.update(summary={})), [], "summary"),
    "runs in a table": (lambda run: break_evaluation(run, lambda e: e.update(runs={"0": {}})), [], "a list of runs"),
    "runs in a list": (lambda run: break_evaluation(run, lambda e: e.update(runs=[e["runs"]])), [], "a list of runs"),
    "diverged": (lambda run: break_evaluation(run, lambda e: e.update(diverged=["x"])), [], "a list of runs"),
    "details": (lambda run: break_evaluation(run, lambda e: e.update(details=[])), [], "a table by student"),
    "cut": (lambda run: (run / "evaluations/hard-v1.json").write_text('{"kind"'), [], "not a run evaluation"),
    "large": (lambda run: (run / "cost.json").write_text(" " * 2**25), [], "too large"),
    "claim": (lambda run: None, ["--claim", "convnet=0.9"], "not evaluated"),
    "claim in per cent": (lambda run: None, ["--claim", f"{CONVNET}=88.7"], "0.887 for 88.7 %"),
    "claim without value": (lambda run: None, ["--claim", CONVNET], "STUDENT=FRACTION"),
    "link": (lambda run: None, ["--link", "javascript:alert(1)"], "http"),
    "preview": (lambda run: (run / "preview.png").write_text("<svg/>"), [], "not a PNG"),
    "unknown flag": (lambda run: None, ["--licens", "MIT"], "did you mean '--licence'"),
}


@pytest.mark.parametrize("name", BAD_RUNS)
def test_bad_input_is_one_error_and_writes_nothing(tmp_path: Path, board: Path, name: str) -> None:
    spoil, flags, word = BAD_RUNS[name]
    run = make_run(tmp_path / "run")
    spoil(run)
    with pytest.raises(UserError) as caught:
        submit_verb.main([str(run), "--leaderboard", str(board), *flags])
    assert word in str(caught.value)
    assert not board.exists()


def test_missing_run_names_the_command(board: Path) -> None:
    with pytest.raises(UserError, match="ddbench distill"):
        submit_verb.main(["nowhere", "--leaderboard", str(board)])


def test_claims_must_be_finite() -> None:
    for text in ("a=nan", "a=inf", "a=-0.1"):
        with pytest.raises(UserError, match="fraction"):
            parse_claim(text)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("https://example.org/a_(b)?c=d&e#f", True),
        ("http://localhost:8000", True),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("https://user@evil.org/", False),
        ('https://x.org/"onload=', False),
        ("https://x.org/<b>", False),
        ("https://x.org/\n", False),
        ("https://x.org/" + "a" * 300, False),
        ("//x.org", False),
    ],
)
def test_addresses(text: str, good: bool) -> None:
    assert is_url(text) is good


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def test_preview_loses_foreign_chunks(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "<script>alert(1)</script>" * 20, zip=False)
    dirty = png(pnginfo=info) + b"tail"
    clean = clean_png(dirty, "x")
    assert b"script" in dirty
    assert b"script" not in clean
    assert not clean.endswith(b"tail")
    assert Image.open(io.BytesIO(clean)).tobytes() == Image.open(io.BytesIO(dirty)).tobytes()
    path = tmp_path / "x.png"
    path.write_bytes(clean)
    assert published_png(path) == clean
    for bad, word in ((dirty[:-4], "does not belong"), (clean + b"tail", "after the end")):
        path.write_bytes(bad)
        with pytest.raises(UserError, match=word):
            published_png(path)


def huge(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return png()[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<script>",
        b"GIF89a" + bytes(100),
        png()[:-30],
        png()[:40],
        huge(100_000, 100_000),
        huge(4097, 1),
        huge(0, 5),
        huge(4000, 4000),
        png().replace(b"IDAT", b"IDAX"),
        b"x" * 1_000_001,
    ],
    ids=range(11),
)
def test_hostile_previews_are_refused(data: bytes) -> None:
    with pytest.raises(UserError, match=r"preview\.png"):
        clean_png(data, "preview.png")


def test_paths_stay_inside_the_board(row: Path) -> None:
    result = read_result(row)
    result = replace(result, synset=replace(result.synset, dataset="folder:" + "../" * 40))
    assert ".." not in result_folder(result).parts
    assert not result_path(result).is_absolute()
