"""``evaluate --keep-weights``: a later measurement does not train, and gives the same bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import EAGER, TINY

from ddbench.evaluation import weights
from ddbench.evaluation.weights import LIST
from ddbench.protocols import training

SEEDS = 2


def command(run: Path, *more: object) -> list[object]:
    return [
        *("evaluate", run, "--students", TINY, "--seeds", SEEDS, "--epochs", 20, "--workers", 1, *EAGER),
        *more,
    ]


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The seeds of every training, as they are trained."""
    done: list[tuple[int, ...]] = []
    real = training.trained_students

    def counted(plan: Any, student: str, seeds: Sequence[int], *more: Any, **options: Any) -> Any:
        done.append(tuple(seeds))
        return real(plan, student, seeds, *more, **options)

    monkeypatch.setattr(training, "trained_students", counted)
    return done


@pytest.fixture
def fresh_run(random_run: Path) -> Path:
    """A run that is not evaluated."""
    shutil.rmtree(random_run / "evaluations")
    return random_run


def place(run: Path) -> tuple[Path, Path]:
    """The evaluation, and the folder of its students."""
    (out,) = (path for path in (run / "evaluations").glob("*.json") if not path.name.endswith(".cost.json"))
    return out, out.with_name(f"{out.stem}.weights")


def test_later_measurements_do_not_train(fresh_run: Path, tmp_path: Path, ddb: Callable, trainings: list):
    other = Path(shutil.copytree(fresh_run, tmp_path / "other"))
    kept = ddb(*command(fresh_run, "--keep-weights"))
    assert kept.code == 0, kept.err
    out, folder = place(fresh_run)
    assert "2 of 2 students kept, " in kept.err
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".safetensors", ".safetensors"]
    assert len(trainings) == SEEDS

    trainings.clear()
    assert ddb(*command(fresh_run, "--calibration")).code == 0
    assert ddb(*command(fresh_run, "--ood", "--max-images", 20)).code == 0
    assert trainings == [], "both measured the students that were kept"
    assert (folder / LIST).exists(), "they stay for the next measurement"

    assert ddb(*command(other, "--calibration")).code == 0
    assert ddb(*command(other, "--ood", "--max-images", 20)).code == 0
    assert len(trainings) == 2 * SEEDS, "without the flag each measurement trains"
    assert place(other)[0].read_bytes() == out.read_bytes()
    assert not place(other)[1].exists()


def test_a_student_that_was_changed_is_trained_again(fresh_run: Path, ddb: Callable, trainings: list):
    assert ddb(*command(fresh_run, "--keep-weights")).code == 0
    _, folder = place(fresh_run)
    first = min(folder.glob("*.safetensors"))
    data = bytearray(first.read_bytes())
    data[-1] ^= 1  # one bit of a weight
    first.write_bytes(data)
    trainings.clear()
    assert ddb(*command(fresh_run, "--calibration")).code == 0
    assert len(trainings) == 1
    assert weights.usable(folder, TINY, 0, -1.0, "another") is False


def test_the_limit(fresh_run: Path, ddb: Callable, trainings: list, monkeypatch: pytest.MonkeyPatch):
    assert ddb(*command(fresh_run, "--keep-weights")).code == 0
    _, folder = place(fresh_run)
    size = max(path.stat().st_size for path in folder.glob("*.safetensors"))
    shutil.rmtree(fresh_run / "evaluations")

    monkeypatch.setattr(weights, "LIMIT", size + size // 2)
    assert ddb(*command(fresh_run, "--keep-weights", "--calibration")).code == 0
    assert len(list(folder.glob("*.safetensors"))) == 1, "both were measured, one is kept"
    trainings.clear()
    assert ddb(*command(fresh_run, "--ood", "--max-images", 20)).code == 0
    assert len(trainings) == 1

    monkeypatch.setattr(weights, "LIMIT", 10)
    shutil.rmtree(fresh_run / "evaluations")
    assert ddb(*command(fresh_run, "--keep-weights")).code == 0
    assert not folder.exists()


def test_runs_that_are_there_are_not_trained_for_keeping(fresh_run: Path, ddb: Callable, trainings: list):
    assert ddb(*command(fresh_run)).code == 0
    trainings.clear()
    result = ddb(*command(fresh_run, "--keep-weights"))
    assert result.code == 0
    assert trainings == []
    assert "0 of 2 students kept" in result.err
    assert "trained before, without --keep-weights" in result.err
    assert not place(fresh_run)[1].exists()


def test_seeds_that_only_fill_a_block_are_not_kept(fresh_run: Path, ddb: Callable, trainings: list):
    result = ddb(*command(fresh_run, "--keep-weights", "--at-once", 3))
    assert (result.code, trainings) == (0, [(0, 1, 2)])
    assert f"{SEEDS} of {SEEDS} students kept" in result.err
    assert len(list(fresh_run.glob("evaluations/*.weights/*.safetensors"))) == SEEDS


def test_from_python(fresh_run: Path, data_root: Path):
    import ddbench

    scores = ddbench.evaluate(
        fresh_run, students=TINY, seeds=1, epochs=3, threads=1, compile="off", data=data_root, quiet=True,
        keep_weights=True,
    )  # fmt: skip
    assert weights.is_kept(scores.path)


def test_students_that_another_process_clears(tmp_path: Path):
    """What goes between the listing and the look is passed over, by whoever counts and whoever lists."""
    folder = weights.weights_folder(tmp_path / "score.json")
    folder.mkdir(parents=True)
    (folder / "here.safetensors").write_bytes(b"four")
    (folder / "gone.safetensors").symlink_to(folder / "nowhere")
    assert weights.room(folder, weights.LIMIT - 4)
    assert not weights.room(folder, weights.LIMIT - 3)
    kept = weights.clear(tmp_path / "score.json", keep=True)
    assert kept is not None
    assert (kept.files, kept.bytes, kept.left_out) == (1, 4, 0)
