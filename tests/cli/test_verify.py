"""``ddbench leaderboard verify``: rows that we made are trained again from the board alone; imported ones as well."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import EAGER, TINY, contents, listing, random_tiny
from PIL import Image
from test_kill import RECORDED, halted, kill_when
from test_relabel import TEACHER

from ddbench.leaderboard import retrain
from ddbench.leaderboard.attachments import SYNSET
from ddbench.leaderboard.audit import check_board
from ddbench.leaderboard.schema import load_results, read_result, result_id
from ddbench.leaderboard.verification import load_verifications
from ddbench.protocols import training
from ddbench.runtime.errors import UserError
from ddbench.runtime.temporary import machine

MLP = "mlp-d1-w8"
OWN = 'name = "quick-1"\nbase = "hard-v1"\nepochs = 4\nfull_epochs = 1\nlr = 0.02\n'
Ddb = Callable[..., Any]


def done(result: Any, code: int = 0) -> str:
    assert result.code == code, result.err
    return str(result.out)


def evaluated(run: Path, protocol: object, *more: object) -> list[object]:
    students = ("--students", f"{TINY},{MLP}", "--seeds", 3)
    return ["evaluate", run, "--protocol", protocol, *students, "--workers", 1, "--quiet", *EAGER, *more]


@pytest.fixture(scope="session")
def one_row(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A board with one row of ``random`` under a protocol of its own; copy it before changing it."""
    from ddbench.cli.main import run

    root = tmp_path_factory.mktemp("one-row")
    (root / "quick.toml").write_text(OWN)
    with contextlib.redirect_stdout(io.StringIO()):
        for command in (
            random_tiny(root / "run", "--data", data_root),
            evaluated(root / "run", root / "quick.toml", "--data", data_root),
            ["submit", root / "run", "--leaderboard", root / "board", "--claim", f"{TINY}=0.5"],
        ):
            run([str(part) for part in command])
    return root / "board"


@pytest.fixture
def board(one_row: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(one_row, tmp_path / "board"))


def verify(board: Path, *more: object) -> list[object]:
    flags = ("--leaderboard", board, "--work", board.parent / "work", "--compile", "off")
    return ["leaderboard", "verify", *more, *flags]


def verdicts(board: Path) -> list[str]:
    return [verification.verdict for verification in load_verifications(board).values()]


def test_what_is_found_out_about_a_row_lies_beside_the_caller(
    ddb: Ddb, board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A board takes results by submission only."""
    monkeypatch.chdir(tmp_path)
    (row,) = load_results(board)
    (synset,) = board.rglob("*.synset.safetensors")
    before = listing(board)
    brief = ("--epochs", 1, "--workers", 1, "--quiet", *EAGER)
    out = done(ddb("evaluate", synset, "--students", MLP, "--seeds", 1, *brief))
    (found,) = Path("evaluations").glob("*/*[0-9].json")
    assert found.parent.name == row.id
    assert f"result: {found}" in out
    out = done(ddb("scores", synset, "--student", MLP, "--repeats", 2, *brief))
    (found,) = (path for path in Path("scores").rglob("*.json") if not path.name.endswith(".cost.json"))
    assert found.parent.name == row.id
    assert f"result: {found}" in out
    fewer = ("--repeats", 2, "--out", "three.json", "--student", MLP, *brief)
    done(ddb("scores", synset, *fewer[2:], "--repeats", 3))
    before_it = Path("three.json").read_bytes()
    found_out = ddb("scores", synset, *fewer)
    assert (found_out.code, "three.json has 3; give as many" in found_out.err) == (2, True)
    assert Path("three.json").read_bytes() == before_it
    out = done(ddb("relabel", synset, "--teacher-student", TEACHER, *brief[:2], *brief[4:]))
    assert f"labels: evaluations/{row.id}/labels.safetensors" in out
    assert f"next: ddbench evaluate {synset} --protocol fkd --epochs 1" in out
    done(ddb("evaluate", synset, "--protocol", "fkd", "--students", MLP, "--seeds", 1, *brief))
    assert listing(board) == before


def test_a_board_that_may_not_be_written_to(board: Path, refused: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before a row is trained again for nothing."""
    monkeypatch.setattr("os.access", lambda place, mode: False)
    monkeypatch.setattr(training, "train_student", lambda *given: pytest.fail("a student was trained"))
    refused(verify(board), "cannot write", str(board))


def test_our_own_row_gives_the_same_bits(ddb: Ddb, board: Path) -> None:
    """Nothing but the board is there: no run folder, no protocol file."""
    out = done(ddb(*verify(board)))
    (result,) = load_results(board)
    (made,) = load_verifications(board).values()
    assert made.verdict == "identical"
    claimed = {(run.student, run.seed): run.metrics["accuracy"] for run in result.runs}
    assert {(run.student, run.seed): run.metrics["accuracy"] for run in made.runs} == claimed
    assert f"{result.id}  random on digits, ipc1, quick-1: identical" in out
    (line,) = (line for line in out.splitlines() if TINY in line)
    assert line.split()[:2] == [TINY, "50.00"]  # published, beside claimed and measured
    assert line.split()[2] == line.split()[3]
    again = done(ddb(*verify(board)))
    assert "verified already: identical" in again
    before = listing(board)
    done(ddb(*verify(board, "--again")))
    assert [content for content, _ in listing(board).values()] == [content for content, _ in before.values()]


def test_other_seeds_are_within(ddb: Ddb, board: Path) -> None:
    done(ddb(*verify(board, "--seeds", 6)))
    (made,) = load_verifications(board).values()
    assert {run.seed for run in made.runs} == {3, 4, 5, 6, 7, 8}
    assert made.verdict == "within"
    done(ddb(*verify(board, "--again", "--seeds", 2, "--first-seed", 2)))
    assert {run.seed for run in next(iter(load_verifications(board).values())).runs} == {2, 3}


def test_an_invented_search_is_found(ddb: Ddb, tmp_path: Path, data_root: Path) -> None:
    """Accuracies are told, since another processor may differ in them; a rate that is not the best is refused."""
    (tmp_path / "search.toml").write_text(OWN.replace("lr = 0.02", 'lr_source = "search"\nlr_grid = [0.01, 0.02]'))
    done(ddb(*random_tiny(tmp_path / "run", "--data", data_root)))
    brief = ("--students", MLP, "--seeds", 2, "--workers", 1, "--quiet", *EAGER, "--data", data_root)
    done(ddb("evaluate", tmp_path / "run", "--protocol", tmp_path / "search.toml", *brief))
    board = tmp_path / "board"
    done(ddb("submit", tmp_path / "run", "--leaderboard", board))
    assert "search of" not in done(ddb(*verify(board)))
    assert verdicts(board) == ["identical"]

    def higher(result: dict[str, Any]) -> None:
        own = result["learning_rates"][MLP]
        own["searched"][repr(own["rate"])] = 0.99

    def other(result: dict[str, Any]) -> None:
        own = result["learning_rates"][MLP]
        own["rate"] = 0.03 - own["rate"]
        own["searched"] = {rate: 0.999 if float(rate) == own["rate"] else 0.5 for rate in own["searched"]}

    next(board.rglob("*.verified.json")).unlink()
    rewritten(board, higher)
    out = done(ddb(*verify(board)))
    assert "  search of mlp-d1-w8: rate" in out
    assert "the row says 0.9900 (1 of 2 rates differ)" in out
    assert verdicts(board) == ["identical"]
    next(board.rglob("*.verified.json")).unlink()
    rewritten(board, other)
    result = ddb(*verify(board))
    assert result.code == 2
    assert "its runs are identical, its search is not: search of mlp-d1-w8: rate" in result.err
    assert " is best, not 0.0" in result.err
    assert verdicts(board) == []


def test_a_better_claim_than_the_synset_gives_is_below(ddb: Ddb, board: Path) -> None:
    """A consistent row with invented numbers passes every check but this one."""

    def invent(result: dict[str, Any]) -> None:
        for run in result["runs"]:
            run["metrics"]["accuracy"] = 0.95 + 0.01 * run["seed"]

    rewritten(board, invent)
    assert "below" in done(ddb(*verify(board)), 1)
    assert verdicts(board) == ["below"]


FALSE: dict[str, Callable[[dict[str, Any]], object]] = {
    "synset.bytes.real": lambda row: row["synset"]["bytes"].update(real=10**15),
    "synset.bytes.real_images": lambda row: row["synset"]["bytes"].update(real_images=10**9),
    "synset.fixed_network": lambda row: row["synset"].update(fixed_network=True),
    "teacher": lambda row: row.update(teacher={"sha256": "0" * 64}),
    f"learning_rates.{MLP}.rate": lambda row: row["learning_rates"][MLP].update(rate=123),
    f"learning_rates.{TINY}.source": lambda row: row["learning_rates"][TINY].update(source="synset"),
    "learning_rates.nobody": lambda row: row["learning_rates"].update(nobody=row["learning_rates"][TINY]),
}


@pytest.mark.parametrize("name", FALSE)
def test_what_a_row_says_of_its_synset_is_looked_at_before_it_is_trained(
    ddb: Ddb, board: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These pass ``check``, which has no data and no networks; of a row that is not named it is the outcome."""

    def trained(**_: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr("ddbench.evaluation.evaluator.evaluate", trained)
    monkeypatch.setattr("ddbench.leaderboard.retrain.needed", lambda result: {SYNSET: result.synset.sha256})
    rewritten(board, FALSE[name])
    (row,) = load_results(board)
    words = f"row {row.id}: its {name} is not what its files give; nothing is trained"
    for more in ((row.id,), ()):
        found = ddb(*verify(board, *more))
        assert found.code != 0
        assert words in found.err + found.out
    assert not load_verifications(board)


@pytest.fixture(scope="session")
def measured_row(one_row: Path, tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """The row with calibration, robustness and corruptions; copy it before changing it."""
    from ddbench.cli.main import run

    root = Path(shutil.copytree(one_row.parent, tmp_path_factory.mktemp("measured") / "root"))
    shutil.rmtree(root / "board")
    more = ("--calibration", "--robustness", "--corruptions", "--max-images", 30, "--data", data_root)
    with contextlib.redirect_stdout(io.StringIO()):
        for command in (
            evaluated(root / "run", root / "quick.toml", *more),
            ["submit", root / "run", "--leaderboard", root / "board"],
        ):
            run([str(part) for part in command])
    return root / "board"


@pytest.fixture
def measured(measured_row: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(measured_row, tmp_path / "board"))


def test_measurements_are_repeated_when_asked_for(ddb: Ddb, measured: Path) -> None:
    done(ddb(*verify(measured)))
    assert next(iter(load_verifications(measured).values())).measured == {}
    assert "1 open" in done(ddb(*verify(measured, "--measured", "--status")))
    out = done(ddb(*verify(measured, "--measured")))
    assert "verified already" in done(ddb(*verify(measured, "--measured")))
    (made,) = load_verifications(measured).values()
    assert set(made.measured) == {"ece", "ece_scaled", "robust_accuracy", "corruption_accuracy"}
    assert made.verdict == "identical"
    assert all(set(table) == {TINY, MLP} for table in made.measured.values())
    (line,) = (line for line in out.splitlines() if f"{MLP}, corrupted" in line)
    assert line.split()[-1] == "identical"
    assert line.split()[3] == line.split()[4]


def test_a_seed_that_diverged_earlier_is_not_in_the_way(
    ddb: Ddb, measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other seeds were asked for before in the same work folder; the row's own are measured as well."""
    tested = training.tested_students

    def steep(plan: Any, test: Any, nets: dict[int, Any], *more: Any) -> list[Any]:
        scores = tested(plan, test, nets, *more)
        return [None if seed == 4 else score for seed, score in zip(nets, scores, strict=True)]

    monkeypatch.setattr(training, "tested_students", steep)
    (row,) = load_results(measured)
    found = ddb(*verify(measured, row.id, "--seeds", 2))
    assert found.code == 2
    assert "seed 4: the student's outputs are not finite" in found.err
    done(ddb(*verify(measured, "--measured")))
    assert verdicts(measured) == ["identical"]
    assert ": within" in done(ddb(*verify(measured, row.id, "--seeds", 2, "--first-seed", 2, "--again")))


def rewritten(board: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the row of a board, consistently with itself."""
    from ddbench.leaderboard.result import Run
    from ddbench.leaderboard.schema import summary_of

    (path,) = board.rglob("????????????????.json")
    result = read_result(path).to_json()
    change(result)
    result["summary"] = summary_of([Run(**run) for run in result["runs"]])
    result["id"] = result_id(result)
    for old in path.parent.iterdir():
        old.rename(old.with_name(old.name.replace(path.stem, result["id"])))
    path.with_name(f"{result['id']}.json").write_text(json.dumps(result))
    check_board(board)


def test_a_better_robustness_than_the_students_have_is_below(ddb: Ddb, measured: Path) -> None:
    def invent(result: dict[str, Any]) -> None:
        for run in result["runs"]:
            run["metrics"]["robust_accuracy"] = 0.95 + 0.01 * run["seed"]

    rewritten(measured, invent)
    done(ddb(*verify(measured)))
    assert verdicts(measured) == ["identical"], "the accuracy is honest"
    assert "below" in done(ddb(*verify(measured, "--measured", "--again")), 1)
    assert verdicts(measured) == ["below"]


MEASURED_ODDLY: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "other attacks": (lambda said: said["robustness"]["attacks"].pop(), "(attacks differs)"),
    "other version": (lambda said: said["corruptions"].update(version=9), "(version differs)"),
    "unknown budget": (lambda said: said["robustness"].update(budget="mine"), "unknown budget 'mine'"),
    "images are text": (lambda said: said["corruptions"].update(images="all"), "images is 'all'"),
}


@pytest.mark.parametrize("name", MEASURED_ODDLY)
def test_settings_that_are_not_ours_are_refused(
    ddb: Ddb, refused: Callable[..., str], measured: Path, name: str
) -> None:
    change, word = MEASURED_ODDLY[name]
    rewritten(measured, lambda result: change(result["measured"]))
    (result,) = load_results(measured)
    refused(verify(measured, result.id, "--measured"), word)
    assert "cannot be verified" in ddb(*verify(measured, "--measured")).err
    assert not load_verifications(measured)
    done(ddb(*verify(measured)))


def test_killed_and_going_on(ddb: Ddb, board: Path, data_root: Path) -> None:
    command = verify(board, "--seeds", 20)
    work = board.parent / "work"

    def under_way() -> bool:
        return len(list(work.rglob("*.parts/run-*.part"))) > 2

    kill_when(halted(RECORDED, 3, command, data_root), under_way)
    assert not load_verifications(board)
    result = ddb(*command)
    assert "of 40 runs are there; going on" in result.err
    done(result)
    killed = contents(board)
    shutil.rmtree(work)
    done(ddb(*command, "--again"))
    assert contents(board) == killed


def test_again_means_trained_again(ddb: Ddb, board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what the first time left in the work folder; but who was stopped goes on with what it had trained."""
    trained: list[str] = []
    real = training.trained_students

    def noted(plan: Any, student: str, *rest: Any, **more: Any) -> Any:
        trained.append(student)
        return real(plan, student, *rest, **more)

    def full(*given: object) -> None:
        raise UserError("no space left")

    monkeypatch.setattr(training, "trained_students", noted)
    done(ddb(*verify(board)))
    assert len(trained) == 6
    with monkeypatch.context() as patch:
        patch.setattr(retrain, "write_verification", full)
        assert ddb(*verify(board, "--again")).code == 2
    assert len(trained) == 12
    done(ddb(*verify(board, "--again")))
    assert len(trained) == 12
    done(ddb(*verify(board, "--again")))
    assert len(trained) == 18
    assert verdicts(board) == ["identical"]


def test_the_sign_of_who_died_after_its_last_write_goes(ddb: Ddb, board: Path) -> None:
    units = board.parent / "work" / "units"
    (row,) = load_results(board)
    done(ddb(*verify(board)))
    units.mkdir()
    died = units / f"{machine()}.{2**22 + 1}.0a1b2c3d.claim"
    died.write_text(json.dumps({"units": [row.id], "driver": "", "since": 0.0, "sign": died.name}))
    other = units / f"{machine()}.{2**22 + 1}.0a1b2c3e.claim"
    other.write_text(json.dumps({"units": ["0" * 16], "driver": "", "since": 0.0, "sign": other.name}))
    assert "verified already" in done(ddb(*verify(board)))
    assert list(units.iterdir()) == [other], "of a row that is not verified it says what became of it"
    other.unlink()
    done(ddb(*verify(board)))
    assert not units.exists()


def test_a_budget_of_time_stops_and_goes_on(ddb: Ddb, board: Path) -> None:
    out = done(ddb(*verify(board, "--max-minutes", 0.001)))
    assert "1 row(s) not finished; the same command goes on" in out
    assert not load_verifications(board)
    done(ddb(*verify(board, "--max-minutes", 60)))
    assert verdicts(board) == ["identical"]


def test_a_synset_that_lies_elsewhere(ddb: Ddb, refused: Callable[..., str], board: Path, tmp_path: Path) -> None:
    (place,) = board.rglob("*.synset.safetensors")
    given = tmp_path / "given.safetensors"
    place.rename(given)
    (result,) = load_results(board)
    assert "left out: its synset does not lie beside it" in done(ddb(*verify(board)))
    refused(verify(board, result.id), "--synset FILE", result.synset.sha256)
    other = tmp_path / "other.safetensors"
    other.write_bytes(given.read_bytes()[:-1] + b"\0")
    refused(verify(board, result.id, "--synset", other), "sha256", "other.safetensors")
    done(ddb(*verify(board, result.id[:6], "--synset", given)))
    assert verdicts(board) == ["identical"]


BAD: dict[str, tuple[list[object], str]] = {
    "nobody": (["0000"], "no row has this id"),
    "short": (["0"], "no row has this id"),
    "seeds": (["--seeds", 0], "expected at least 1"),
    "first seed alone": (["--first-seed", 3], "--seeds"),
    "minutes": (["--max-minutes", 0], "more than 0"),
    "compile": (["--compile", "maybe"], "auto, on or off"),
    "file without row": (["--synset", "x"], "name the one row"),
    "board": (["--leaderboard", "nowhere"], "no leaderboard"),
    "path as id": (["../../x"], "no row has this id"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_flags(refused: Callable[..., str], board: Path, name: str) -> None:
    flags, word = BAD[name]
    ids = [read_result(next(board.rglob("????????????????.json"))).id] if "seed" in name else []
    refused([*verify(board, *ids), *flags], word)


def spoiled(board: Path, change: Callable[[dict[str, Any]], object]) -> str:
    """Change the row of a board so that its id fits again; returns it."""
    (path,) = board.rglob("????????????????.json")
    result = read_result(path).to_json()
    change(result)
    result["id"] = result_id(result)
    folder = path.parent
    for old in list(folder.iterdir()):
        old.rename(old.with_name(old.name.replace(path.stem, result["id"])))
    (folder / f"{result['id']}.json").write_text(json.dumps(result))
    return str(result["id"])


def protocol(result: dict[str, Any], **settings: Any) -> None:
    from ddbench.protocols.protocol import PROTOCOLS, changed

    made, _ = changed(PROTOCOLS["hard-v1"], **{**result["protocol"]["settings"], **settings})
    result["protocol"].update(settings=made.settings(), hash=made.hash)


def altered(result: dict[str, Any], **told: Any) -> None:
    result["protocol"].update(standard=False, changed=told)


UNFIT: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "endless": (lambda r: protocol(r, epochs=10**9), "at most 100,000"),
    "altered elsewhere": (lambda r: altered(r, colour="red"), "altered colour"),
    "images": (lambda r: altered(r, max_images="all"), "max_images"),
    "student": (
        lambda r: (
            [run.update(student="resnet18-nn") for run in r["runs"] if run["student"] == MLP],
            r["summary"].update({"resnet18-nn": r["summary"].pop(MLP)}),
        ),
        "resnet18",
    ),
    "labels": (
        lambda r: r.update(
            labels={"synset_sha256": "0" * 64, "teacher": {}, "views": {}, "seed": 0, "epochs": 1, "bytes": 0}
        ),
        "not named",
    ),
    "teacher": (lambda r: r.update(teacher={"sha256": "1" * 64}), "--teacher FILE"),
    "decoded": (lambda r: r["synset"].update(decoded_images=999), "its decoded_images is not what row"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_rows_that_cannot_be_trained_again(ddb: Ddb, board: Path, name: str) -> None:
    change, word = UNFIT[name]
    row = spoiled(board, change)
    before = contents(board)
    result = ddb(*verify(board, row))
    assert result.code == 2, result.out
    assert word in result.err
    assert len(result.err.splitlines()) == 1
    assert contents(board) == before


def test_a_row_of_a_folder_reads_no_folder_unasked(ddb: Ddb, board: Path, tmp_path: Path) -> None:
    def change(result: dict[str, Any]) -> None:
        result["synset"].update(dataset=f"folder:{tmp_path}", method="full", budget={"unit": "all", "value": 9})

    (path,) = board.rglob("????????????????.json")
    result = read_result(path).to_json()
    change(result)
    result["id"] = result_id(result)
    from ddbench.leaderboard.schema import check_result, result_path

    shutil.rmtree(board / "results")
    new = board / result_path(check_result(result, "row"))
    new.parent.mkdir(parents=True)
    new.write_text(json.dumps(result))
    found = ddb(*verify(board, result["id"]))
    assert found.code == 2
    assert "--allow-folders" in found.err


def pixels(kind: str, root: Path) -> tuple[Path, list[object]]:
    """A synset of ten digits as others publish it: the file or folder, and the flags that ``import`` needs."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    first = [int(np.flatnonzero(digits.target == label)[0]) for label in range(10)]
    images = (digits.images[first] * 255 / 16).round().astype(np.uint8)
    if kind == "folder":
        for label, image in enumerate(images):
            folder = root / "pictures" / str(label)
            folder.mkdir(parents=True)
            Image.fromarray(image).save(folder / "0.png")
        return root / "pictures", ["--method", "kip"]
    if kind == "npz":
        np.savez(root / "x.npz", images=images[:, None], labels=np.arange(10))
        return root / "x.npz", []
    normalised = torch.from_numpy(images[:, None]).float().div(255).sub(0.3).div(0.37)
    torch.save(normalised, root / "images_best.pt")
    torch.save(torch.arange(10), root / "labels_best.pt")
    return root / "images_best.pt", ["--labels", root / "labels_best.pt", "--lr", "0.03"]


@pytest.mark.parametrize("kind", ["folder", "npz", "pt"])
def test_a_synset_made_elsewhere(ddb: Ddb, tmp_path: Path, kind: str) -> None:
    """Import, evaluate, submit under the authors' name for the method, check, verify."""
    path, flags = pixels(kind, tmp_path)
    run, board = tmp_path / "run", tmp_path / "board"
    done(ddb("import", path, "--dataset", "digits", "--out", run, *flags))
    done(ddb(*evaluated(run, "hard-v1", "--epochs", 3, "--max-images", 100)))
    named = [] if "--method" in flags else ["--method", "kip"]
    submit = ["submit", run, "--leaderboard", board, *named, "--name", "KIP", "--author", "A", "--licence", "MIT"]
    assert "missing" not in done(ddb(*submit, "--dry-run")).partition("optional:")[0]
    said = done(ddb(*submit))
    assert "non-standard" in said
    (result,) = load_results(board)
    assert result.synset.method == "kip"
    assert result.recipe["imported_from"] == path.name
    assert check_board(board) == {"rows": 1, "files": 2, "verified": 0}
    done(ddb(*verify(board)))
    assert verdicts(board) == ["identical"]


def test_all_real_images_under_named_statistics(ddb: Ddb, tmp_path: Path) -> None:
    """The row says their numbers, not their name."""
    draw, run, board = np.random.default_rng(0), tmp_path / "run", tmp_path / "board"
    images = draw.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(40) % 2)
    data = ("--dataset", f"npz:{tmp_path / 'own.npz'}")
    done(ddb("distill", "--method", "full", *data, "--preprocess", "imagenet", "--out", run, "--quiet", *EAGER))
    done(ddb(*evaluated(run, "hard-v1", "--epochs", 1)))
    done(ddb("submit", run, "--leaderboard", board))
    done(ddb(*verify(board, "--allow-folders")))
    assert verdicts(board) == ["identical"]


@pytest.mark.parametrize("labels", ["teacher", "stored"])
def test_rows_with_a_teacher(ddb: Ddb, tmp_path: Path, labels: str) -> None:
    """The teacher, or the labels that it stored, lie beside the row and are used from there."""
    run, board, teachers = tmp_path / "run", tmp_path / "board", tmp_path / "teachers"
    done(ddb(*random_tiny(run)))
    done(ddb("teacher", "--student", TEACHER, "--epochs", 1, "--teachers", teachers, *EAGER))
    if labels == "stored":
        done(ddb("relabel", run, "--teachers", teachers, "--epochs", 3, *EAGER))
    name = "fkd" if labels == "stored" else "kd-v1"
    done(ddb(*evaluated(run, name, "--epochs", 3, "--max-images", 100, "--teachers", teachers)))
    assert "nobody else" not in done(ddb("submit", run, "--leaderboard", board, "--teachers", teachers))
    (result,) = load_results(board)
    assert result.synset.label_kind == "teacher"
    assert check_board(board)["files"] == 3
    shutil.rmtree(teachers)
    shutil.rmtree(run)
    done(ddb(*verify(board)))
    assert verdicts(board) == ["identical"]


@pytest.mark.slow
def test_our_own_row_under_hard_v1(ddb: Ddb, tmp_path: Path) -> None:
    """The protocol of the board in full: the same bits with the same seeds, within the interval with others."""
    run, board = tmp_path / "run", tmp_path / "board"
    done(ddb(*random_tiny(run)))
    done(ddb("evaluate", run, "--students", "mlp-d3-w128", "--seeds", 5, "--quiet", "--workers", 2))
    done(ddb("submit", run, "--leaderboard", board))
    done(ddb(*verify(board, "--workers", 2)))
    assert verdicts(board) == ["identical"]
    done(ddb(*verify(board, "--again", "--seeds", 5, "--workers", 2)))
    assert verdicts(board) == ["within"]
