"""Synsets as datasets for hubs: written, read back to the byte, refused where they are not what they say."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import evaluate_tiny, listing, random_tiny
from made_board import made_result, put
from made_synsets import KINDS, write_run, write_view_labels

from ddbench.exchange.importer import import_content
from ddbench.exchange.settings import ImportSettings
from ddbench.hub import shard_name, write
from ddbench.hub.read import _check_counts, open_hub, read_content, write_labels
from ddbench.hub.write import export_hub
from ddbench.leaderboard.result import Run
from ddbench.leaderboard.schema import check_result, result_id, summary_of
from ddbench.runtime.errors import UserError
from ddbench.synset import FILE, Synset, from_header, read_synset, write_synset

pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Away from the checkout, whose board has rows of digits."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def published(random_run: Path, tmp_path: Path) -> Path:
    """The export of an evaluated run of random digits."""
    export_hub(random_run, tmp_path / "published")
    return tmp_path / "published"


def again(folder: Path, out: Path) -> Path:
    """The synset's file, made of an export without its dataset."""
    hub = open_hub(folder)
    content = read_content(hub)
    assert content.labels is not None
    parts = {"images": content.images, "labels": content.labels, "lr": content.lr, "stage": content.stage}
    write_synset(out, from_header(folder, hub.header, **parts))
    return out


@pytest.mark.parametrize("synset", KINDS.values(), ids=KINDS)
def test_back_to_the_same_bytes(synset: Synset, tmp_path: Path):
    run = write_run(tmp_path / "run", synset)
    export_hub(run, tmp_path / "pub")
    assert again(tmp_path / "pub", tmp_path / FILE).read_bytes() == (run / FILE).read_bytes()


def test_verbs_there_and_back(ddb: Callable, random_run: Path, tmp_path: Path):
    published, back = tmp_path / "published", tmp_path / "back"
    result = ddb("export", random_run, "--format", "hub", "--out", published)
    assert result.out.splitlines() == [f"4 file(s) in {published}", f"next: ddbench push {published} OWNER/NAME"]
    told = ddb("import", published, "--inspect").out
    assert "an export of ddbench for hubs" in told
    assert "[10, 1, 8, 8] uint8" in told
    result = ddb("import", published, "--out", back)
    assert result.code == 0, result.err
    assert "synset.safetensors: the published bytes, sha256" in result.out
    for name in (FILE, "preview.png"):
        assert (back / name).read_bytes() == (random_run / name).read_bytes()
    before = listing(back)
    result = ddb("import", published, "--out", back)
    assert (result.code, f"finished already: {back}" in result.out) == (0, True), "as after a kill at its very end"
    assert "synset.safetensors: the published bytes, sha256" in result.out
    result = ddb("import", published, "--out", back, "--student", "mlp-d1-w8")
    assert (result.code, "holds a synset already; choose another --out" in result.err) == (2, True)
    assert listing(back) == before
    assert ddb(*evaluate_tiny(back)).code == 0


def test_a_flag_that_changes_it_is_told(ddb: Callable, published: Path, tmp_path: Path):
    result = ddb("import", published, "--method", "mine", "--out", tmp_path / "back")
    assert "NOT the published bytes" in result.out
    assert read_synset(tmp_path / "back" / FILE).method == "mine"


def test_the_card(random_run: Path, published: Path):
    text = (published / "README.md").read_text()
    block = text.split("---\n")[1]
    assert "path: data/train-*.parquet" in block
    assert "config_name: labels" not in block
    (path,) = (random_run / "evaluations").glob("*[!t].json")
    evaluation = json.loads(path.read_text())
    ((student, entry),) = evaluation["summary"].items()
    assert f"| hard-v1, altered | {student} | {100 * entry['accuracy']['mean']:.2f} |" in text
    assert f"sha256 `{open_hub(published).sha256}`" in text
    assert "(preview.png)" in text
    assert "On the leaderboard" not in text


def test_the_card_tells_precisions_apart(random_run: Path, tmp_path: Path):
    """Two lines had the same words and other numbers."""
    (path,) = (random_run / "evaluations").glob("*[!t].json")
    content = json.loads(path.read_text()) | {"precision": "bfloat16"}
    path.with_stem("hard-v1-bfloat16").write_text(json.dumps(content))
    export_hub(random_run, tmp_path / "pub")
    lines = (tmp_path / "pub" / "README.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines if line.startswith("| hard-v1")] == [
        "| hard-v1, altered, bfloat16",
        "| hard-v1, altered",
    ]


def test_a_fixed_network_has_no_interval(ddb: Callable, random_run: Path, tmp_path: Path):
    """Its runs are one: in the card, and where ``info`` tells of the run."""
    (path,) = (random_run / "evaluations").glob("*[!t].json")
    content = json.loads(path.read_text())
    content["synset"]["fixed_network"] = True
    path.write_text(json.dumps(content))
    ((student, entry),) = content["summary"].items()
    mean = f"{100 * entry['accuracy']['mean']:.2f}"
    assert f"    {student:<24} {mean:>6} %  (one fixed network)\n" in ddb("info", random_run).out
    export_hub(random_run, tmp_path / "pub")
    card = (tmp_path / "pub" / "README.md").read_text()
    assert f"| hard-v1, altered | {student} | {mean} |  | one fixed network |" in card


@pytest.mark.parametrize(
    ("labels", "stage", "protocol"),
    [(torch.randn(10, 10), None, "soft-v1"), (torch.arange(10), torch.zeros(10).long(), "pdd")],
)
def test_the_card_names_the_protocol_that_info_and_import_name(
    labels: torch.Tensor, stage: torch.Tensor | None, protocol: str, tmp_path: Path, ddb: Callable
):
    """Of a method that is not known here the one that its form asks for."""
    given = {"image": torch.rand(10, 1, 8, 8), "label": labels} | ({} if stage is None else {"stage": stage})
    torch.save(given, tmp_path / "theirs.pt")
    made = ddb("import", "theirs.pt", "--dataset", "digits", "--method", "theirs", "--out", "run")
    assert made.out.endswith(f" --protocol {protocol}\n"), made.err
    assert ddb("info", "run").out.endswith(f" --protocol {protocol}\n")
    export_hub(Path("run"), tmp_path / "published")
    text = (tmp_path / "published" / "README.md").read_text()
    assert f"ddbench evaluate runs/theirs --protocol {protocol}\n" in text
    assert f"| protocol that it is meant for | {protocol} |" in text


def test_the_card_tells_a_learned_rate(tmp_path: Path):
    export_hub(write_run(tmp_path / "run", KINDS["network input"]), tmp_path / "pub")
    assert "| learned learning rate | 0.0187 |" in (tmp_path / "pub/README.md").read_text()


def test_the_row_of_the_board_is_in_the_card(ddb: Callable, tmp_path: Path):
    run, board = tmp_path / "run", tmp_path / "board"
    assert ddb(*random_tiny(run)).code == 0
    standard = ("--students", "convnet-d1-w4-in", "--seeds", 2, "--workers", 1, "--threads", 1, "--compile", "off")
    assert ddb("evaluate", run, *standard, "--quiet").code == 0
    assert ddb("submit", run, "--leaderboard", board).code == 0
    assert ddb("export", run, "--format", "hub", "--leaderboard", board, "--out", tmp_path / "pub").code == 0
    (row,) = (json.loads(path.read_text()) for path in board.glob("results/*/*/*/*.json"))
    mean = row["summary"]["convnet-d1-w4-in"]["accuracy"]["mean"]
    line = rf"\| `{row['id']}` \|  \| no \| hard-v1 \| convnet-d1-w4-in \| {100 * mean:.2f} \|"
    assert re.search(line, (tmp_path / "pub/README.md").read_text())


def test_a_synset_has_its_own_verdict_and_one_place(tmp_path: Path):
    """Of several random subsets each; of all real data, which stand in every table."""
    subsets = [made_result("random", seed=seed) for seed in range(2)]
    full = made_result("full", budget="all")
    put(tmp_path, subsets[0], verify="identical")
    put(tmp_path, subsets[1])
    for one in (full, made_result(), made_result(ipc=10)):
        put(tmp_path, one)
    places = [write._places(tmp_path, one.synset.sha256) for one in subsets]
    assert [[(place.result.id, place.checked and place.checked.verdict) for place in found] for found in places] == [
        [(subsets[0].id, "identical")],
        [(subsets[1].id, None)],
    ]
    assert [place.result.id for place in write._places(tmp_path, full.synset.sha256)] == [full.id]


def test_the_card_has_the_rank_by_each_student(tmp_path: Path):
    """Every line had that by the student that ranks the table."""
    ours, theirs = made_result(accuracy=0.9), made_result("dm", accuracy=0.4)
    content = theirs.to_json()
    for run in content["runs"]:
        if run["student"] != ours.students[0]:
            run["metrics"]["accuracy"] = 0.95 + run["seed"] / 1000
    content["summary"] = summary_of([Run(**run) for run in content["runs"]])
    content["id"] = result_id(content)
    for one in (ours, check_result(json.loads(json.dumps(content)), "dm")):
        put(tmp_path, one)
    (place,) = write._places(tmp_path, ours.synset.sha256)
    assert list(place.ranks.values()) == [1, *[2] * (len(ours.students) - 1)]


def test_names_cannot_leave_the_card(tmp_path: Path):
    from dataclasses import replace

    odd = replace(KINDS["grey pixels"], dataset='a"\n---\n# | <b>', method="x|y`")
    export_hub(write_run(tmp_path / "run", odd), tmp_path / "pub")
    text = (tmp_path / "pub/README.md").read_text()
    assert text.count("\n---\n") == 1
    assert "<b>" not in text.split("\n---\n")[1]
    assert "x&#124;y&#96;" in text


def test_an_import_typed_again_looks_at_its_labels_too(ddb: Callable, random_run: Path, tmp_path: Path):
    from dataclasses import replace

    own = read_synset(random_run / FILE)
    same = {"fingerprint": own.fingerprint, "class_names": own.class_names, "preprocess": own.preprocess}
    run = write_run(tmp_path / "run", replace(KINDS["grey pixels"], **same))
    write_view_labels(run)
    export_hub(run, tmp_path / "pub")
    argv = ("import", tmp_path / "pub", "--out", tmp_path / "back")
    for _ in range(2):
        result = ddb(*argv)
        assert result.code == 0, result.err
        assert "labels.safetensors: the published bytes" in result.out
    (tmp_path / "back/labels.safetensors").unlink()
    assert "holds a synset already" in ddb(*argv).err


def test_stored_labels_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = write_run(tmp_path / "run", KINDS["network input"])
    write_view_labels(run)
    monkeypatch.setattr(write, "SHARD", 1)  # every epoch a file
    export_hub(run, tmp_path / "pub")
    assert [path.name for path in sorted((tmp_path / "pub/labels").iterdir())] == [shard_name(k, 3) for k in range(3)]
    write_labels(open_hub(tmp_path / "pub"), tmp_path / "labels.safetensors")
    assert (tmp_path / "labels.safetensors").read_bytes() == (run / "labels.safetensors").read_bytes()
    monkeypatch.undo()
    export_hub(run, tmp_path / "pub")
    assert [path.name for path in (tmp_path / "pub/labels").iterdir()] == [shard_name(0, 1)], "old ones are gone"


def test_new_labels_never_lie_beside_an_old_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Killed before the end, an export over one with other labels is none; typed again it is whole."""
    run, out = write_run(tmp_path / "run", KINDS["network input"]), tmp_path / "pub"
    write_view_labels(run)
    export_hub(run, out)
    before = (out / "synset.json").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(write, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            export_hub(run, out)
    assert (out / "synset.json").read_text() == before, "the same again changes nothing"
    labels = bytearray((run / "labels.safetensors").read_bytes())
    labels[-2] ^= 1
    (run / "labels.safetensors").write_bytes(labels)
    with monkeypatch.context() as patch:
        patch.setattr(write, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            export_hub(run, out)
    assert sorted(path.name for path in out.iterdir()) == ["data", "labels"]
    export_hub(run, out)
    write_labels(open_hub(out), tmp_path / "labels.safetensors")
    assert (tmp_path / "labels.safetensors").read_bytes() == labels


def killed(*given: object) -> None:
    raise KeyboardInterrupt


def test_labels_of_another_synset_are_left_out(tmp_path: Path):
    run = write_run(tmp_path / "run", KINDS["network input"])
    write_view_labels(run)
    write_run(run, KINDS["grey pixels"])
    exported = export_hub(run, tmp_path / "pub")
    assert exported.notes == [f"left out: {run / 'labels.safetensors'}, which labels another synset"]
    assert not (tmp_path / "pub/labels").exists()


def test_scores_of_another_synset_are_left_out(random_run: Path, tmp_path: Path):
    shutil.copytree(random_run / "evaluations", tmp_path / "other/evaluations")
    exported = export_hub(write_run(tmp_path / "other", KINDS["grey pixels"]), tmp_path / "pub")
    (path,) = (tmp_path / "other/evaluations").glob("*[!t].json")
    assert exported.notes == [f"left out: {path}, which is of another synset"]
    assert "## Measured" not in (tmp_path / "pub/README.md").read_text()


def test_foreign_evaluations_are_refused(refused: Callable, tmp_path: Path):
    run = write_run(tmp_path / "run", KINDS["grey pixels"])
    (run / "evaluations").mkdir()
    (run / "evaluations/x.json").write_text("{}")
    refused(["export", run, "--format", "hub", "--out", tmp_path / "pub"], "x.json: not an evaluation")
    assert not (tmp_path / "pub").exists()


def test_labels_in_another_order_are_refused(tmp_path: Path):
    run = write_run(tmp_path / "run", KINDS["network input"])
    write_view_labels(run)
    export_hub(run, tmp_path / "pub")
    (path,) = (tmp_path / "pub/labels").iterdir()
    table = pq.read_table(path)
    pq.write_table(table.take(list(range(len(table)))[::-1]), path)
    with pytest.raises(UserError, match="not in the order of epochs and images"):
        write_labels(open_hub(tmp_path / "pub"), tmp_path / "labels.safetensors")
    assert not (tmp_path / "labels.safetensors").exists()


def test_without_pyarrow_one_line(random_run: Path, refused: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(["export", random_run, "--format", "hub", "--out", tmp_path / "pub"], "pyarrow", 'pip install ".[parquet]"')


def test_folders_of_others_are_not_written_to(random_run: Path, refused: Callable, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/README.md").write_text("my project")
    refused(["export", random_run, "--format", "hub", "--out", tmp_path / "mine"], "holds README.md, and")
    export_hub(write_run(tmp_path / "other", KINDS["grey pixels"]), tmp_path / "pub")
    refused(["export", random_run, "--format", "hub", "--out", tmp_path / "pub"], "the export of another synset; if")
    refused(["export", random_run, "--format", "npz", "--leaderboard", tmp_path, "--out", tmp_path / "a"], "only")


@pytest.mark.parametrize(("kind", "limit"), [("network input", 8639), ("grey pixels", 1280)])
def test_what_no_import_takes_is_refused(kind: str, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By the bytes of the images, before anything is written; PNG of small ones has more, which shows once written."""
    run = write_run(tmp_path / "run", KINDS[kind])
    monkeypatch.setattr("ddbench.hub.write.MAX_FILE", limit)
    with pytest.raises(UserError, match=f"synset.safetensors: .* at most {limit:,}; hand over the file itself"):
        export_hub(run, tmp_path / "pub")
    assert not [path for path in (tmp_path / "pub").rglob("*") if path.is_file()]


def spoil_json(published: Path, name: str, value: object) -> None:
    path = published / "synset.json"
    found = json.loads(path.read_text())
    if value is None:
        del found[name]
    else:
        found[name] = value
    path.write_text(json.dumps(found))


def spoil_column(published: Path, keep: Sequence[int] | None = None, drop: str = "") -> None:
    (path,) = (published / "data").iterdir()
    table = pq.read_table(path)
    table = table.drop([drop]) if drop else table.take(list(keep or ()))
    pq.write_table(table, path)


def truncate(published: Path) -> None:
    (path,) = (published / "data").iterdir()
    path.write_bytes(path.read_bytes()[:-50])


SPOILS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no files": (lambda folder: shutil.rmtree(folder / "data"), "no data/train-*.parquet"),
    "cut short": (truncate, "not a whole parquet file"),
    "too few rows": (lambda folder: spoil_column(folder, keep=range(9)), "9 rows, but synset.json says 10"),
    "no labels": (lambda folder: spoil_column(folder, drop="label"), "has no column 'label'"),
    "no images": (lambda folder: spoil_column(folder, drop="image"), "has no column 'image'"),
    "another size": (lambda folder: spoil_json(folder, "shape", [10, 1, 9, 8]), "image 0 is (8, 8) L"),
    "another colour": (lambda folder: spoil_json(folder, "shape", [10, 3, 8, 8]), "image 0 is (8, 8) L"),
    "huge": (lambda folder: spoil_json(folder, "shape", [4_000_000, 3, 1024, 1024]), "too large for a synset"),
    "no shape": (lambda folder: spoil_json(folder, "shape", None), "'shape' is None"),
    "newer": (lambda folder: spoil_json(folder, "schema", 99), "newer ddbench"),
    "foreign": (lambda folder: spoil_json(folder, "kind", "other"), "expected ddbench-hub"),
    "no header": (lambda folder: spoil_json(folder, "synset", [1]), "expected the synset's header"),
    "odd rate": (lambda folder: spoil_json(folder, "lr", {"shape": [], "values": [1, 2]}), "'lr' is"),
}


@pytest.mark.parametrize(("spoil", "needle"), SPOILS.values(), ids=SPOILS)
def test_what_is_refused(spoil: Callable, needle: str, published: Path, refused: Callable, tmp_path: Path):
    spoil(published)
    refused(["import", published, "--out", tmp_path / "back"], needle)


def test_images_of_a_folder_need_a_place(refused: Callable, tmp_path: Path):
    from dataclasses import replace

    export_hub(write_run(tmp_path / "run", replace(KINDS["grey pixels"], dataset="folder:x")), tmp_path / "pub")
    refused(["import", tmp_path / "pub", "--out", tmp_path / "back"], "--dataset folder:PATH")


def test_a_flag_that_contradicts_the_header_is_refused(published: Path, data_root: Path):
    from ddbench.data.load import load_dataset

    hub = open_hub(published)
    with pytest.raises(UserError, match="leave --preprocess out"):
        import_content(
            published,
            read_content(hub),
            dataset=load_dataset("digits", data_root),
            data=None,
            settings=ImportSettings(preprocess="zca"),
        )


def test_rates_keep_every_bit(tmp_path: Path):
    rates = torch.tensor([1 / 3, 1e-30])
    synset = KINDS["soft labels and stages"]
    from dataclasses import replace

    export_hub(write_run(tmp_path / "run", replace(synset, learned_lr=rates)), tmp_path / "pub")
    assert torch.equal(open_hub(tmp_path / "pub").lr, rates)


def test_lists_that_are_stored_once_are_counted_first(published: Path, refused: Callable, tmp_path: Path):
    """A million equal numbers take a few bytes of a file, and all of them in memory."""
    path = next((published / "data").glob("*.parquet"))
    table = pq.read_table(path)
    long = pytest.importorskip("pyarrow").array([[0.0] * 1_000_000, *[[0.0]] * (table.num_rows - 1)])
    pq.write_table(table.append_column("more", long), path)
    assert path.stat().st_size < 10_000
    refused(["import", published, "--out", tmp_path / "back"], "1,000,009 values in 10 rows", root=tmp_path)


def test_columns_are_looked_at_after_arrow_has_taken_them(tmp_path: Path):
    """A description that contradicts itself is an error where rows are read, else the end of the process."""

    def refuse(rows: int, groups: list[int]) -> Iterator[object]:
        raise OSError(f"levels of {rows} rows, group {groups[0]}")
        yield

    opened = SimpleNamespace(num_row_groups=1, reader=SimpleNamespace(iter_batches=refuse))  # no metadata to ask
    with pytest.raises(UserError, match=r"a.parquet: not a whole parquet file \(levels of 0 rows, group 0\)"):
        _check_counts([(tmp_path / "a.parquet", opened)], 3)


def test_whatever_arrow_raises_is_told(published: Path, refused: Callable, monkeypatch: pytest.MonkeyPatch):
    """Kinds that are neither OSError nor ValueError too."""
    arrow = pytest.importorskip("pyarrow")

    def refuse(*_: object, **__: object) -> Iterator[object]:
        raise arrow.ArrowNotImplementedError("lists of this kind")
        yield

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", refuse)
    refused(["import", published, "--out", "back"], "not a whole parquet file (lists of this kind)")


def test_fewer_rows_than_a_file_says(published: Path, refused: Callable, monkeypatch: pytest.MonkeyPatch):
    """Its groups need not hold what its description says of the whole."""
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: iter(()))
    refused(["import", published, "--out", "back"], "10 of 10 rows are missing; copy or get it again")
