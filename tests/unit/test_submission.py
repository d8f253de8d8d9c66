"""What a submission packs, what it lacks and says so, and that all evaluations of a run can go at once."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import shlex
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from test_leaderboard import CONVNET, MLP, break_evaluation, everything, make_run, safetensors

import ddbench
from ddbench.cli import submit as verb
from ddbench.cli.buffer import Args
from ddbench.cli.parse import parse
from ddbench.evaluation.ddranking.definitions import Accuracies, repeat_scores
from ddbench.experts.recipe import ExpertRecipe
from ddbench.leaderboard import submit
from ddbench.leaderboard.attachments import LABELS, TEACHER, check_part
from ddbench.leaderboard.audit import check_board
from ddbench.leaderboard.commands import expert_command, run_flags
from ddbench.leaderboard.packing import Given, find_part
from ddbench.leaderboard.schema import check_result, load_results, read_result, result_id
from ddbench.leaderboard.submit import Submission, make_result, plan_submission, write_plan
from ddbench.protocols.protocol import PROTOCOLS, read_protocol
from ddbench.runtime import signs
from ddbench.runtime.errors import UserError


@pytest.fixture
def board(tmp_path: Path) -> Path:
    return tmp_path / "board"


def call(run: Path, board: Path, *flags: str) -> None:
    verb.main([str(run), "--leaderboard", str(board), "--teachers", str(board.parent / "teachers"), *flags])


def by_python(run: Path, board: Path, note: str) -> None:
    ddbench.submit(run, board, note=note)


def by_verb(run: Path, board: Path, note: str) -> None:
    call(run, board, "--note", note)


WAYS = pytest.mark.parametrize("way", [by_python, by_verb])


@WAYS
def test_a_run_is_its_folder_or_its_synset_file(way: Callable, tmp_path: Path, board: Path) -> None:
    """No other path in a run's folder stands for the run: a mistyped name would be its neighbour's row."""
    run = make_run(tmp_path / "run")
    (run / "other.safetensors").write_bytes(b"x")
    for place, words in (("mistyped", "no such run folder"), ("other.safetensors", "a file; expected the folder")):
        with pytest.raises(UserError, match=f"{place}: {words}"):
            way(run / place, board, "x")
    assert not board.exists()
    way(run / "synset.safetensors", board, "x")
    before = everything(board)
    way(run, board, "x")
    assert everything(board) == before


def test_an_evaluation_that_lies_elsewhere_is_named_by_its_file(tmp_path: Path, board: Path) -> None:
    run = make_run(tmp_path / "run")
    out = (run / "evaluations/hard-v1.json").rename(tmp_path / "score.json")
    (run / "evaluations/hard-v1.cost.json").rename(tmp_path / "score.cost.json")
    with pytest.raises(UserError, match="give that file by --protocol"):
        call(run, board)
    with pytest.raises(UserError, match=f"ddbench submit RUN --protocol {out}"):
        call(out, board)
    call(run, board, "--protocol", str(out))
    (row,) = load_results(board)
    assert row.cost.evaluate is not None
    of_another = make_run(tmp_path / "other", content=b"another")
    with pytest.raises(UserError, match="another synset"):
        call(of_another, board, "--protocol", str(out))


@WAYS
def test_a_board_is_written_to_in_turn(
    way: Callable, tmp_path: Path, board: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another process added in its turn is known: the later row supersedes it."""
    run = make_run(tmp_path / "run")
    other = contextlib.ExitStack()

    def ends(seconds: float) -> None:
        write_plan(plan_submission(run, board, make_result(run)))
        other.close()

    monkeypatch.setattr(signs.time, "sleep", ends)
    other.enter_context(signs.turn(board / "submit", "board"))
    way(run, board, "second")
    first, second = sorted(load_results(board), key=lambda result: result.supersedes or "")
    assert second.submission.note == "second"
    assert second.supersedes == first.id


def test_python_takes_all_that_a_submitter_can_say() -> None:
    known = {"name" if field.name == "method_title" else field.name for field in fields(Submission)}
    assert known < set(inspect.signature(ddbench.submit).parameters)


def test_a_student_is_left_out_from_python_too(tmp_path: Path, board: Path) -> None:
    made = ddbench.submit(make_run(tmp_path / "run"), board, leave_out=[MLP])
    assert made.result.students == (CONVNET,)


def test_what_only_the_left_out_student_has_is_not_on_the_row(tmp_path: Path, board: Path) -> None:
    """Neither its trainings in the cost, nor its measurements."""
    run = make_run(tmp_path / "run")
    ece = {"unit": "fraction", "better": "lower", "title": "Expected calibration error"}

    def measure(evaluation: dict[str, Any]) -> None:
        """The other student's calibration, and corruptions of both."""
        evaluation["metrics"]["ece"] = ece
        evaluation["summary"][MLP]["ece"] = {"mean": 0.1, "std": None, "n": 1, "low": None, "high": None}
        evaluation["measured"] = {"calibration": {"bins": 15}, "corruptions": {"types": ["fog"]}}
        both = [(MLP, "calibration"), (MLP, "corruptions"), (CONVNET, "corruptions")]
        evaluation["findings"] = [{"student": name, "seed": 0, "kind": kind, "details": {}} for name, kind in both]
        evaluation["details"] = {MLP: {"n_test": 500}, CONVNET: {"n_test": 500}}

    break_evaluation(run, measure)
    path = run / "evaluations/hard-v1.cost.json"
    costs = {CONVNET: (1.25, 2.5, 100, 7), MLP: (10.0, 20.0, 900, 8)}
    names = ("wall_seconds", "cpu_seconds", "peak_memory_bytes", "peak_gpu_memory_bytes")
    entries = [{"student": name, "seed": 0, **dict(zip(names, own, strict=True))} for name, own in costs.items()]
    whole = {"device": "cpu: Example 3000", "cores": 2, "wall_seconds": 11.25, "cpu_seconds": 22.5}
    path.write_text(json.dumps({**whole, "peak_memory_bytes": 900, "peak_gpu_memory_bytes": 8, "runs": entries}))
    found = make_result(run, None, Submission(leave_out=[MLP])).to_json()
    assert found["cost"]["evaluate"] == {**whole, **dict(zip(names, costs[CONVNET], strict=True)), "runs": entries[:1]}
    assert found["measured"] == {"corruptions": {"types": ["fog"]}}
    assert (found["metrics"].keys(), found["details"].keys()) == ({"accuracy"}, {CONVNET})


def test_dry_run_lists_what_is_missing_and_how_to_supply_it(
    tmp_path: Path, board: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run")
    call(run, board, "--dry-run", "--author", "A. Author")
    said = capsys.readouterr().out
    needed, wanted = said.index("needed for training"), said.index("wanted")
    lines = {line.split()[1]: line for line in said.splitlines() if line.startswith("  ")}
    assert needed < said.index("synset  ") < wanted
    assert lines["synset"].split()[0] == lines["authors"].split()[0] == "there"
    for name, flag in {"licence": "--licence", "claims": "--claim", "code": "--code", "method": "--name"}.items():
        assert lines[name].split()[0] == "missing"
        assert flag in lines[name]
    assert not board.exists()


def test_a_teacher_that_is_just_being_trained_is_not_read(tmp_path: Path) -> None:
    """Its checkpoint goes at any moment; what goes while it is looked at is passed over."""
    folder = tmp_path / "teachers" / "digits" / "mlp-d1-w8"
    folder.mkdir(parents=True)
    given, sha256 = Given(teachers=tmp_path / "teachers"), hashlib.sha256(b"x").hexdigest()
    (folder / "0a.partial.safetensors").write_bytes(b"x")
    (folder / "0b.safetensors").symlink_to(folder / "gone")
    assert find_part(tmp_path, TEACHER, sha256, given) is None
    (folder / "0c.safetensors").write_bytes(b"x")
    assert find_part(tmp_path, TEACHER, sha256, given) == folder / "0c.safetensors"


def test_the_run_configuration_goes_into_the_row(tmp_path: Path, board: Path) -> None:
    run = make_run(tmp_path / "run")
    assert make_result(run).recipe is None
    experts = {"count": 10, "recipe": {"epochs": 15}}
    (run / "config.json").write_text(json.dumps({"kind": "ddbench-run", "experts": experts, "seed": 0, "threads": 1}))
    assert make_result(run).recipe == {"experts": experts, "threads": 1}
    (run / "config.json").write_text(json.dumps({"x": "y" * 70_000}))
    with pytest.raises(UserError, match="recipe has"):
        make_result(run)


def test_all_standard_evaluations_at_once(tmp_path: Path, board: Path) -> None:
    run = make_run(tmp_path / "run")
    make_run(run, changed={"epochs": 5})
    text = (run / "evaluations/hard-v1.json").read_text()
    evaluation = json.loads(text)
    evaluation["protocol"]["name"] = "mine_2"
    (run / "evaluations/mine_2.json").write_text(json.dumps(evaluation))
    call(run, board, "--all")
    assert sorted(result.protocol.name for result in load_results(board)) == ["hard-v1", "mine_2"]
    before = everything(board)
    call(run, board, "--all")
    assert everything(board) == before
    with pytest.raises(UserError, match="give one of the two"):
        call(run, board, "--all", "--protocol", "hard-v1")
    for path in (run / "evaluations/hard-v1.json", run / "evaluations/mine_2.json"):
        path.unlink()
    with pytest.raises(UserError, match="no standard evaluation"):
        call(run, board, "--all")


def test_a_row_is_told_before_a_later_one_fails(
    tmp_path: Path, board: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run")
    evaluation = json.loads((run / "evaluations/hard-v1.json").read_text())
    evaluation["protocol"]["name"] = "mine_2"
    (run / "evaluations/mine_2.json").write_text(json.dumps(evaluation))
    write = submit.write_result

    def full(path: Path, result: Any) -> None:
        if load_results(board):
            raise UserError("no space left")
        write(path, result)

    monkeypatch.setattr(submit, "write_result", full)
    with pytest.raises(UserError, match="no space left"):
        call(run, board, "--all")
    (row,) = load_results(board)
    assert f"{row.id}.json" in capsys.readouterr().out


def test_the_only_standard_evaluation_is_taken_and_told(
    tmp_path: Path, board: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run")
    make_run(run, changed={"epochs": 5})
    told = "taking hard-v1, the only standard evaluation; --protocol takes another: hard-v1-nonstandard\n"
    call(run, board, "--dry-run")
    assert capsys.readouterr().out.startswith(told)
    call(run, board)
    assert capsys.readouterr().out.startswith(told)
    (row,) = load_results(board)
    assert row.protocol.standard
    call(run, board, "--protocol", "hard-v1-nonstandard")
    assert "taking" not in capsys.readouterr().out
    assert sorted(row.protocol.standard for row in load_results(board)) == [False, True]


def test_one_bad_evaluation_of_several_writes_nothing(tmp_path: Path, board: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "evaluations/zzz.json").write_text((run / "evaluations/hard-v1.json").read_text().replace("0.881", "7"))
    with pytest.raises(UserError, match="zzz"):
        call(run, board, "--all")
    assert not board.exists()


def test_an_imported_synset_is_named_at_submission(tmp_path: Path, board: Path) -> None:
    run = make_run(tmp_path / "run", method="imported")
    call(run, board, "--method", "kip")
    (result,) = load_results(board)
    assert result.synset.method == "kip"
    assert check_board(board) == {"rows": 1, "files": 2, "verified": 0}
    with pytest.raises(UserError, match="made by mtt"):
        call(make_run(tmp_path / "other"), board, "--method", "kip")
    with pytest.raises(UserError, match=r"synset\.method"):
        call(run, board, "--method", "../kip")


def test_the_same_synset_under_another_method_name_supersedes(tmp_path: Path, board: Path) -> None:
    run = make_run(tmp_path / "run", method="imported")
    call(run, board, "--method", "kip")
    call(run, board, "--method", "kip-2")
    first, second = sorted(load_results(board), key=lambda result: result.supersedes or "")
    assert second.supersedes == first.id


def test_what_was_said_of_a_row_stays_when_it_is_extended(
    tmp_path: Path, board: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row of more seeds, submitted without a word, is not anonymous; what is said anew takes the old word's place."""
    run = make_run(tmp_path / "run", method="imported")
    words = ["--name", "Mine", "--author", "A", "--licence", "MIT", "--claim", f"{MLP}=0.5", "--claim-source", "paper"]
    call(run, board, "--method", "mine", *words)
    capsys.readouterr()
    call(run, board)
    assert "already there" in capsys.readouterr().out
    (old,) = load_results(board)
    make_run(run, {CONVNET: [0.8, 0.81, 0.82, 0.83], MLP: [0.5, 0.51, 0.52, 0.53]}, method="imported")
    call(run, board, "--licence", "CC0-1.0")
    told = f"kept from {old.id}, whose place the row takes: method mine, name, authors, claims\n"
    assert told in capsys.readouterr().out
    (new,) = (row for row in load_results(board) if row.id != old.id)
    assert new.supersedes == old.id
    assert new.synset.method == "mine"
    said, before = new.submission, old.submission
    assert (said.method_title, said.authors, said.claims) == (before.method_title, before.authors, before.claims)
    assert (before.licence, said.licence) == ("MIT", "CC0-1.0")


def test_a_protocol_of_a_file_is_submitted_by_the_file(tmp_path: Path, board: Path) -> None:
    run = make_run(tmp_path / "run")
    own = tmp_path / "own.toml"
    own.write_text('name = "short"\nepochs = 3\n')
    evaluation = json.loads((run / "evaluations" / "hard-v1.json").read_text())
    used = read_protocol(own)
    evaluation["protocol"] |= {"name": "short", "hash": used.hash, "settings": used.settings()}
    (run / "evaluations" / "short.json").write_text(json.dumps(evaluation))
    call(run, board, "--protocol", str(own))
    (row,) = load_results(board)
    assert row.protocol.name == "short"
    own.write_text('name = "short"\nepochs = 4\n')
    with pytest.raises(UserError, match=r"own\.toml: .*short\.json was evaluated with other settings of short"):
        call(run, board, "--protocol", str(own))


def test_a_large_synset_needs_an_address(tmp_path: Path, board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", content=bytes(2_000_001))
    call(run, board)
    assert "nobody else can train this row again: synset" in capsys.readouterr().out
    call(run, board, "--synset-url", "https://example.org/x.safetensors", "--note", "with its address")
    assert "nobody" not in capsys.readouterr().out
    assert "https://example.org/x.safetensors" in [r.submission.synset_url for r in load_results(board)]
    with pytest.raises(UserError, match="http"):
        call(run, board, "--synset-url", "file:///etc/passwd")


def under(run: Path, name: str, *, teacher: int = 0, labels: int = 0, augmentation: int = 0) -> None:
    """Make the evaluation of a run one by a protocol with a teacher's labels, which cost so many bytes more."""

    def change(evaluation: dict[str, Any]) -> None:
        used, said = PROTOCOLS[name], evaluation["synset"]
        evaluation["protocol"] |= {"name": name, "hash": used.hash, "settings": used.settings()}
        said["label_kind"], stored = "teacher", said["bytes"]
        stored |= {"teacher": teacher, "labels": stored["labels"] + labels, "augmentation": augmentation}
        stored["total"] += teacher + labels + augmentation

    break_evaluation(run, change)


def with_teacher(run: Path, weights: int = 25) -> bytes:
    """Make the evaluation of a run one with a teacher; returns the teacher's file."""
    tensors = {"w": ("F32", [weights], bytes(4 * weights)), "count": ("I64", [], bytes(8))}
    content = safetensors(tensors, {"kind": "ddbench-teacher", "schema": 1})
    sha256 = hashlib.sha256(content).hexdigest()
    break_evaluation(run, lambda e: e.update(teacher={"sha256": sha256, "student": CONVNET}))
    under(run, "labels-view", teacher=4 * weights)
    return content


def test_a_small_teacher_lies_beside_its_row(tmp_path: Path, board: Path) -> None:
    run = make_run(tmp_path / "run")
    content = with_teacher(run)
    place = tmp_path / "teachers/digits/x/1.safetensors"
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    call(run, board)
    (result,) = load_results(board)
    (teacher,) = board.rglob(f"{result.id}.teacher.safetensors")
    assert teacher.read_bytes() == content
    assert check_board(board)["files"] == 3


LIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "labels are hard": (lambda said: said.update(label_kind="hard"), "label_kind is 'hard', but under .* teacher"),
    "a smaller teacher": (lambda said: said["bytes"].update(teacher=4, total=658), r"bytes\.teacher is 100"),
    "no teacher": (lambda said: said["bytes"].update(teacher=0, total=654), r"its bytes\.teacher is not what row"),
    "fewer labels": (lambda said: said["bytes"].update(labels=1, total=745), r"its bytes\.labels is not what row"),
    "no rate": (lambda said: said["bytes"].update(other=0, total=750), r"its bytes\.other is not what row"),
    "views": (lambda said: said["bytes"].update(augmentation=8, total=762), r"its bytes\.augmentation is not what"),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_follows_from_the_files_beside_a_row_is_checked(tmp_path: Path, board: Path, lie: str) -> None:
    change, words = LIES[lie]
    run = make_run(tmp_path / "run")
    place = tmp_path / "teachers/digits/x/1.safetensors"
    place.parent.mkdir(parents=True)
    place.write_bytes(with_teacher(run))
    call(run, board)
    (row,) = board.rglob("????????????????.json")
    said = json.loads(row.read_text())
    assert said["synset"]["bytes"]["total"] == 754
    change(said["synset"])
    said["id"] = result_id(said)
    for path in row.parent.iterdir():
        path.rename(path.with_name(path.name.replace(row.stem, said["id"])))
    row.with_name(f"{said['id']}.json").write_text(json.dumps(said))
    with pytest.raises(UserError, match=words):
        check_board(board)


def test_a_teacher_that_comes_later_is_added(tmp_path: Path, board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    content = with_teacher(run)
    call(run, board)
    assert "train this row again: teacher" in capsys.readouterr().out
    before = everything(board)
    (tmp_path / "mine.safetensors").write_bytes(content)
    call(run, board, "--teacher", str(tmp_path / "mine.safetensors"))
    assert "already there" in capsys.readouterr().out
    assert everything(board).items() > before.items()
    (tmp_path / "mine.safetensors").write_bytes(content + b"x")
    with pytest.raises(UserError, match="another teacher"):
        call(run, board, "--teacher", str(tmp_path / "mine.safetensors"))
    with pytest.raises(UserError, match="no such file"):
        call(run, board, "--teacher", str(tmp_path / "nowhere"))


def test_stored_labels_are_named_by_their_hash(tmp_path: Path, board: Path) -> None:
    run = make_run(tmp_path / "run")
    sha256 = json.loads((run / "evaluations/hard-v1.json").read_text())["synset"]["sha256"]
    deciding = {"synset_sha256": sha256, "teacher": {}, "views": {}, "seed": 0, "epochs": 2, "precision": "float32"}
    reference = {**deciding, "bytes": 400}
    break_evaluation(run, lambda e: e.update(labels=reference))
    under(run, "fkd", labels=400, augmentation=8)
    plan = plan_submission(run, board, make_result(run))
    assert [item.name for item in plan.lacks] == ["stored labels"]
    header = {"kind": "ddbench-labels", "schema": 1, **deciding}
    content = safetensors({"logits": ("F16", [2, 10, 10], bytes(400))}, header)
    (run / "labels.safetensors").write_bytes(content)
    call(run, board)
    (result,) = load_results(board)
    assert result.submission.labels_sha256 == hashlib.sha256(content).hexdigest()
    assert check_board(board)["files"] == 3
    (labels,) = board.rglob("*.labels.safetensors")
    smaller = replace(result, labels={**reference, "bytes": 40})
    with pytest.raises(UserError, match=r"400 bytes of labels, row .* says otherwise"):
        check_part(labels, LABELS, smaller)
    with pytest.raises(UserError, match=r"its seed is 0, that of the labels of row .* is 7; give --labels FILE"):
        check_part(labels, LABELS, replace(result, labels={**reference, "seed": 7}))


OTHER_LABELS: dict[str, Any] = {
    "synset_sha256": "0" * 64,
    "teacher": {"sha256": "1" * 64},
    "views": {"batch": 20},
    "seed": 0,
    "epochs": 3,
    "precision": "amp",
}


@pytest.mark.parametrize("fact", OTHER_LABELS)
def test_labels_that_the_evaluation_did_not_use_are_refused(tmp_path: Path, board: Path, fact: str) -> None:
    """Those in the run may be others than those that ``evaluate --labels`` was given."""
    run = make_run(tmp_path / "run")
    sha256 = json.loads((run / "evaluations/hard-v1.json").read_text())["synset"]["sha256"]
    used = {"synset_sha256": sha256, "teacher": {}, "views": {}, "seed": 7, "epochs": 2, "precision": "float32"}
    break_evaluation(run, lambda e: e.update(labels={**used, "bytes": 400}))
    under(run, "fkd", labels=400, augmentation=8)
    header = {"kind": "ddbench-labels", "schema": 1, **used}
    for path, own in ((run / "labels.safetensors", {fact: OTHER_LABELS[fact]}), (tmp_path / "seven.safetensors", {})):
        path.write_bytes(safetensors({"logits": ("F16", [2, 10, 10], bytes(400))}, header | own))
    with pytest.raises(UserError, match=f"labels.safetensors: its {fact} is .*; give --labels FILE"):
        call(run, board)
    assert not board.exists()
    call(run, board, "--labels", str(tmp_path / "seven.safetensors"))
    assert check_board(board)["files"] == 3


def scores_file(run: Path, **changes: Any) -> None:
    said = json.loads((run / "evaluations/hard-v1.json").read_text())
    accuracies = Accuracies(real_hard=0.9, syn_hard=0.6, syn=0.7, random=0.5, syn_plain=0.6, random_plain=0.5)
    found = {
        "kind": "ddbench-scores",
        "synset": {"sha256": said["synset"]["sha256"]},
        "protocol": {"hash": said["protocol"]["hash"]},
        "student": CONVNET,
        "standard": True,
        "weight": 0.5,
        "random_labels": "hard",
        "repeats": [{"seed": seed, **repeat_scores(accuracies)} for seed in range(2)],
    }
    (run / "scores").mkdir(exist_ok=True)
    (run / "scores/hard-v1.json").write_text(json.dumps(found | changes))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda said: said["summary"]["ior"].update(mean=0.99), "scores.summary does not follow from scores.repeats"),
        (lambda said: said["repeats"][1].update(seed=0), "scores.repeats has a seed twice"),
    ],
)
def test_scores_that_nobody_measured_are_refused(
    change: Callable[[dict[str, Any]], None], words: str, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run")
    scores_file(run)
    row = json.loads(json.dumps(make_result(run).to_json()))
    change(row["scores"])
    row["id"] = result_id(row)
    with pytest.raises(UserError, match=words):
        check_result(row, "row")


def test_scores_go_into_the_row(tmp_path: Path, board: Path) -> None:
    run = make_run(tmp_path / "run")
    scores_file(run)
    plan = plan_submission(run, board, make_result(run))
    write_plan(plan)
    scores = read_result(plan.path).scores
    assert scores.summary["ior"]["mean"] == pytest.approx(0.2)
    assert scores.summary["hlr"]["mean"] == pytest.approx(0.3)
    assert set(scores.repeats[0].to_json()) == {
        "seed",
        "real_hard",
        "syn_hard",
        "syn",
        "random",
        "syn_plain",
        "random_plain",
    }
    assert scores.hard_augmentation is None
    assert "hard_augmentation" not in scores.to_json(), "rows of before keep their ids"
    scores_file(run, standard=False, hard_augmentation=True)
    row = json.loads(json.dumps(make_result(run).to_json()))
    assert row["scores"]["hard_augmentation"] is True
    assert check_result(row, "row").scores.hard_augmentation is True
    scores_file(run, protocol={"hash": "of another"})
    assert make_result(run).scores is None
    scores_file(run, synset={"sha256": "another"})
    with pytest.raises(UserError, match="another synset"):
        make_result(run)
    scores_file(run, repeats=[{"seed": 0}])
    with pytest.raises(UserError, match="not a whole scores file"):
        make_result(run)


def test_each_claim_may_have_its_source(tmp_path: Path, board: Path) -> None:
    run = make_run(tmp_path / "run")
    claims = ("--claim", f"{CONVNET}=0.9", "--claim", f"{MLP}=0.8", "--claim-source", "table 1")
    call(run, board, *claims, "--claim-source", "table 2")
    (result,) = load_results(board)
    assert [claim.source for claim in result.submission.claims] == ["table 1", "table 2"]
    both = make_result(run, None, Submission(claims=[(CONVNET, 0.9), (MLP, 0.8)], claim_source="all"))
    assert [claim.source for claim in both.submission.claims] == ["all", "all"]
    with pytest.raises(UserError, match="3 --claim-source for 2"):
        call(run, board, *claims, "--claim-source", "b", "--claim-source", "c")


def test_a_row_that_another_process_writes_meanwhile_is_known(
    tmp_path: Path, board: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes after the board was looked over."""
    result = make_result(make_run(tmp_path / "run"))
    looked_over, looks = submit._earlier, 0

    def look_over(*args: Any) -> Any:
        nonlocal looks
        looks += 1
        found = looked_over(*args)
        if looks == 1:
            write_plan(plan_submission(tmp_path / "run", board, result))
        return found

    monkeypatch.setattr(submit, "_earlier", look_over)
    plan = plan_submission(tmp_path / "run", board, result)
    assert plan.known
    assert plan.attachments == {}
    assert len(load_results(board)) == 1


def test_another_row_with_the_same_id_is_kept(tmp_path: Path, board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")
    path = write_plan(plan_submission(run, board, make_result(run)))[-1]
    before = everything(board)
    monkeypatch.setattr("ddbench.leaderboard.submit._earlier", lambda board, result: [])
    with pytest.raises(UserError, match="another row has this id"):
        plan_submission(run, board, make_result(run), Given())
    assert everything(board) == before
    assert path.is_file()


@pytest.mark.parametrize(
    "recipe",
    [
        ExpertRecipe(epochs=15, lr=0.02, decay=True, augmentation="color_crop"),
        ExpertRecipe(kind="gsam", rho=0.02, momentum=0.5, seed=3),
        ExpertRecipe(kind="smooth", optimizer="adamw", options=(("eps", 1e-7),), holdout=0.0),
    ],
    ids=["sgd", "gsam", "smooth"],
)
def test_the_command_behind_the_experts_is_in_the_row(tmp_path: Path, recipe: ExpertRecipe) -> None:
    """Through JSON, the command line and the verb's own flags back to the very recipe."""
    run = make_run(tmp_path / "run")
    config = {"experts": {"count": 7, "recipe": recipe.to_json()}, "threads": 1, "compile": "auto", "device": "cpu"}
    (run / "config.json").write_text(json.dumps(config))
    result = make_result(run)
    command = shlex.split(expert_command(result) or "")
    assert command[:2] == ["ddbench", "buffer"]
    args = parse(Args, command[2:], "x", "", "")
    assert args.settings == recipe
    assert (args.dataset, args.student, args.experts) == ("digits", CONVNET, 7)
    assert run_flags(result) == ["--threads", "1", "--compile", "auto", "--device", "cpu"]
    assert expert_command(make_result(make_run(tmp_path / "other"))) is None
