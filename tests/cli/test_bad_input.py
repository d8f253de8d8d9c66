"""What a user can get wrong on the command line: one line, exit code 2, nothing written."""

from __future__ import annotations

import errno
import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import EAGER, TINY, contents, distill_tiny, evaluate_tiny, listing, random_tiny
from PIL import Image

Refused = Callable[..., str]

BUFFER = ("buffer", "--dataset", "digits", "--student", TINY, "--experts", 1, "--epochs", 2, "--workers", 1, *EAGER)


def filled(argv: tuple[object, ...], **places: Path) -> list[str]:
    """Arguments with ``{out}`` and the like put in."""
    return [str(part).format(**places) for part in argv]


NAMES = {
    "verb": (("destill",), "'destill'", "did you mean 'distill'"),
    "sub-verb": (("buffer", "verfy"), "'verfy'", "did you mean 'verify'"),
    "board-verb": (("leaderboard", "biuld"), "'biuld'", "did you mean 'build'"),
    "list": (("list", "method"), "'method'", "did you mean 'methods'"),
    "method": (("distill", "--method", "mttt", "--ipc", 1, "--out", "{out}"), "'mttt'", "did you mean 'mtt'"),
    "no-method": (("distill", "--ipc", 1, "--out", "{out}"), "--method", "mtt"),
    "dataset": (
        ("distill", "--method", "random", "--dataset", "digit", "--ipc", 1, "--out", "{out}"),
        "'digit'",
        "did you mean 'digits'",
    ),
    "dataset-buffer": (
        ("buffer", "--dataset", "cifar-10", "--buffers", "{out}"),
        "'cifar-10'",
        "did you mean 'cifar10'",
    ),
    "dataset-import": (
        ("import", "{out}.pt", "--dataset", "mnits", "--out", "{out}"),
        "'mnits'",
        "did you mean 'mnist'",
    ),
    "student": (
        ("distill", "--method", "random", "--ipc", 1, "--student", "convnet-d3-w128", "--out", "{out}"),
        "'convnet-d3-w128'",
        "did you mean 'convnet-d3-w128-in'",
    ),
    "student-buffer": (("buffer", "--student", "resnet18", "--buffers", "{out}"), "'resnet18'", "did you mean"),
    "student-evaluate": (("evaluate", "{run}", "--students", "lenett"), "'lenett'", "did you mean 'lenet'"),
    "group": (("evaluate", "{run}", "--students", "quik"), "'quik'", "did you mean 'quick'"),
    "student-too-deep": (("evaluate", "{run}", "--students", "convnet-d4-w8-in"), "convnet-d4-w8-in", "depth 3"),
    "protocol": (("evaluate", "{run}", "--protocol", "hard-v2"), "'hard-v2'", "did you mean 'hard-v1'"),
    "recipe": (
        ("distill", "--method", "mtt", "--recipe", "cifar10-ipc5", "--out", "{out}"),
        "'cifar10-ipc5'",
        "did you mean 'cifar10-ipc",
    ),
    "recipe-file": (("distill", "--method", "mtt", "--recipe", "{out}.toml", "--out", "{out}"), "out.toml", "recipe"),
    "recipe-buffer": (("buffer", "--recipe", "mtt/cifar10-ipc2"), "'cifar10-ipc2'", "did you mean 'cifar10-ipc"),
    "recipe-no-method": (("buffer", "--recipe", "cifar10-ipc1"), "'cifar10-ipc1'", "METHOD/RECIPE"),
    "method-file": (
        ("distill", "--method", "mine", "--method-file", "{out}.py", "--ipc", 1, "--out", "{out}"),
        "out.py",
        "no such Python file",
    ),
    "flag": (("distill", "--method", "mtt", "--iteration", 5, "--out", "{out}"), "--iteration ", "'--iterations'"),
    "flag-buffer": (("buffer", "--epoch", 5), "--epoch ", "did you mean '--epochs'"),
    "flag-evaluate": (("evaluate", "{run}", "--student=lenet"), "--student ", "did you mean '--students'"),
    "flag-of-another-method": (
        ("distill", "--method", "random", "--ipc", 1, "--student-steps", 5, "--out", "{out}"),
        "unknown flag --student-steps",
    ),
    "flag-list": (("list", "methods", "--jsn"), "--jsn", "did you mean '--json'"),
    "flag-submit": (("submit", "{run}", "--licens", "MIT"), "--licens", "did you mean '--licence'"),
    "flag-import": (("import", "x.pt", "--dataset", "digits", "--outt", "{out}"), "--outt", "did you mean '--out'"),
    "flag-export": (("export", "{run}", "--fromat", "png", "--out", "{out}"), "--fromat", "did you mean '--format'"),
    "format": (("export", "{run}", "--format", "jpeg", "--out", "{out}"), "jpeg"),
    "precision": (("evaluate", "{run}", "--precision", "float16"), "float16"),
    "precision-buffer": ((*BUFFER, "--precision", "float16", "--buffers", "{out}"), "'float16'", "bfloat16"),
    "preprocess": (
        ("distill", "--method", "random", "--ipc", 1, "--preprocess", "zac", "--out", "{out}"),
        "--preprocess",
        "'zac'",
        "did you mean 'zca'",
    ),
    "preprocess-channels": (
        ("distill", "--method", "random", "--ipc", 1, "--preprocess", "imagenet", "--out", "{out}"),
        "--preprocess imagenet",
        "3 channels",
    ),
    "optimizer": ((*BUFFER, "--optimizer", "adamm", "--buffers", "{out}"), "'adamm'", "did you mean 'adam"),
    "optimizer-option": ((*BUFFER, "--optimizer", "adam", "--options", "ep=1", "--buffers", "{out}"), "'ep'", "eps"),
    "options": ((*BUFFER, "--options", "eps", "--buffers", "{out}"), "'eps'", "name=number"),
    "augmentation": ((*BUFFER, "--augmentation", "crop_flp", "--buffers", "{out}"), "'flp'", "did you mean 'flip'"),
    "augmentation-evaluate": (("evaluate", "{run}", "--augmentation", "colour"), "'colour'", "did you mean 'color'"),
    "tracker": ((*random_tiny(Path("{out}")), "--track", "wand"), "'wand'", "wandb"),
    "inner": ((*distill_tiny(Path("{buffers}"), Path("{out}")), "--inner", "adjoin"), "adjoin"),
    "run": (("evaluate", "{out}"), "out", "no such synset"),
    "buffers-empty": (("buffer", "info", "{out}"), "out", "ddbench buffer"),
    "buffers-verify": (("buffer", "verify", "{out}"), "out", "ddbench buffer"),
    "import-file": (("import", "{out}.pt", "--dataset", "digits", "--out", "{out}"), "out.pt", "no such file"),
    "import-labels": (
        ("import", "{png}", "--dataset", "digits", "--labels", "{out}.pt", "--out", "{out}"),
        "out.pt",
        "no such file",
    ),
    "folder": (
        ("distill", "--method", "random", "--dataset", "folder:{out}", "--size", 8, "--ipc", 1, "--out", "{out}"),
        "is no folder",
    ),
    "folder-size": (
        ("distill", "--method", "random", "--dataset", "folder:{out}", "--ipc", 1, "--out", "{out}"),
        "--size",
    ),
    "download-needed": (
        ("distill", "--method", "random", "--dataset", "cifar10", "--ipc", 1, "--out", "{out}"),
        "cifar-10",
        "--download",
    ),
}


@pytest.mark.parametrize("case", NAMES.values(), ids=NAMES)
def test_unknown_names(case, refused: Refused, random_run: Path, buffers: Path, tmp_path: Path):
    argv, *needles = case
    png = tmp_path / "png"
    for label in range(10):
        (png / str(label)).mkdir(parents=True)
        Image.new("L", (8, 8)).save(png / str(label) / "0.png")
    refused(filled(argv, out=tmp_path / "out", run=random_run, buffers=buffers, png=png), *needles)


VALUES = {
    "ipc-0": ((*random_tiny(Path("{out}")), "--ipc", 0), "--ipc 0", "at least 1"),
    "ipc-negative": ((*random_tiny(Path("{out}")), "--ipc", -3), "--ipc -3", "at least 1"),
    "ipc-above-class": ((*random_tiny(Path("{out}")), "--ipc", 200), "--ipc 200", "has only 112", "--ipc 112 or less"),
    "ipc-missing": (("distill", "--method", "random", "--dataset", "digits", "--out", "{out}"), "--ipc is missing"),
    "ipc-text": ((*random_tiny(Path("{out}")), "--ipc", "ten"), "ten"),
    "seeds-many": (("evaluate", "{run}", "--seeds", "9" * 400), "--seeds 999999", "at most 100,000"),
    "experts-many": ((*BUFFER, "--experts", 10**9, "--buffers", "{out}"), "--experts 1000000000", "at most 100,000"),
    "seeds-0": (("evaluate", "{run}", "--seeds", 0), "--seeds 0", "at least 1"),
    "epochs-0": (("evaluate", "{run}", "--epochs", 0), "--epochs 0", "at least 1"),
    "epochs-0-buffer": ((*BUFFER, "--epochs", 0, "--buffers", "{out}"), "--epochs 0", "at least 1"),
    "experts-0": ((*BUFFER, "--experts", 0, "--buffers", "{out}"), "--experts 0", "at least 1"),
    "batch-0": ((*BUFFER, "--batch", 0, "--buffers", "{out}"), "--batch 0", "at least 1"),
    "lr-nan-buffer": ((*BUFFER, "--lr", "nan", "--buffers", "{out}"), "--lr nan", "positive"),
    "lr-0": (("evaluate", "{run}", "--lr", 0), "--lr 0", "positive"),
    "lr-nan": (("evaluate", "{run}", "--lr", "nan"), "--lr nan", "positive"),
    "holdout-buffer": ((*BUFFER, "--holdout", 1.5, "--buffers", "{out}"), "--holdout 1.5", "0.9"),
    "holdout": ((*random_tiny(Path("{out}")), "--holdout", -0.1), "-0.1", "0.9"),
    "max-images-0": (("evaluate", "{run}", "--max-images", 0), "--max-images 0", "at least 1"),
    "workers": (("evaluate", "{run}", "--workers", -1), "--workers -1", "at least 0"),
    "workers-buffer": ((*BUFFER, "--workers", -1, "--buffers", "{out}"), "--workers -1", "at least 0"),
    "threads": ((*random_tiny(Path("{out}")), "--threads", -2), "--threads -2", "at least 0"),
    "device": ((*random_tiny(Path("{out}")), "--device", "tpu"), "'tpu'", "cuda:<number>"),
    "device-evaluate": (("evaluate", "{run}", "--device", "tpu", *EAGER), "'tpu'", "cuda:<number>"),
    "device-buffer": ((*BUFFER, "--device", "tpu", "--buffers", "{out}"), "'tpu'", "cuda:<number>"),
    "device-index": (("evaluate", "{run}", "--device", "cuda:one", *EAGER), "'cuda:one'"),
    "seed-buffer": ((*BUFFER, "--seed", -1, "--buffers", "{out}"), "--seed -1", "at least 0"),
    "size": ((*random_tiny(Path("{out}")), "--size", 16), "--size 16", "fixed size of 8"),
    "validate-every": ((*random_tiny(Path("{out}")), "--validate-every", -1), "--validate-every"),
    "validate-epochs": (
        (*distill_tiny(Path("{buffers}"), Path("{out}")), "--validate-every", 1, "--validate-epochs", 0),
        "--validate-epochs 0",
        "at least 1",
    ),
    "validate-without-holdout": (
        (*random_tiny(Path("{out}")), "--validate-every", 1, "--holdout", 0),
        "--validate-every",
        "--holdout 0.1",
    ),
    "checkpoint-every": ((*random_tiny(Path("{out}")), "--checkpoint-every", -1), "--checkpoint-every"),
    "iterations": ((*distill_tiny(Path("{buffers}"), Path("{out}")), "--iterations", 0), "--iterations 0"),
    "student-steps": ((*distill_tiny(Path("{buffers}"), Path("{out}")), "--student-steps", 0), "--student-steps 0"),
    "start-epochs": (
        (*distill_tiny(Path("{buffers}"), Path("{out}")), "--min-start-epoch", 2),
        "--max-start-epoch 2",
        "--min-start-epoch 2",
    ),
    "lr-student": ((*distill_tiny(Path("{buffers}"), Path("{out}")), "--lr-student", 0), "--lr-student 0"),
    "lr-images": ((*distill_tiny(Path("{buffers}"), Path("{out}")), "--lr-images", "nan"), "--lr-images nan"),
    "import-index": (("import", "{pt}", "--dataset", "digits", "--index", 3, "--out", "{out}"), "--index 3", "1 set"),
    "import-lr": (("import", "{pt}", "--dataset", "digits", "--lr", "-0.1", "--out", "{out}"), "--lr -0.1", "positive"),
}


@pytest.mark.parametrize("case", VALUES.values(), ids=VALUES)
def test_values_out_of_range(case, refused: Refused, random_run: Path, buffers: Path, tmp_path: Path):
    argv, *needles = case
    pt = tmp_path / "res.pt"
    torch.save({"data": [[torch.zeros(10, 1, 8, 8), torch.arange(10)]]}, pt)
    refused(filled(argv, out=tmp_path / "out", run=random_run, buffers=buffers, pt=pt), *needles)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_cuda(refused: Refused, random_run: Path, tmp_path: Path):
    for argv in (
        random_tiny(tmp_path / "out", "--device", "cuda"),
        evaluate_tiny(random_run, "--device", "cuda:0", "--seeds", 3),
        [*BUFFER, "--buffers", tmp_path / "out", "--device", "cuda"],
    ):
        refused(argv, "--device cuda", "0 CUDA device(s)", "--device cpu")


# Experts


def named_command(line: str) -> list[str]:
    """The ``ddbench buffer`` command that a message tells to type, parsed: proves that its flags are valid."""
    from ddbench.cli.buffer import EXAMPLES, Args
    from ddbench.cli.parse import parse

    argv = shlex.split(line[line.rindex("ddbench buffer") :])
    args = parse(Args, argv[2:], "ddbench buffer", "", EXAMPLES)
    assert args.student == TINY
    return argv


def test_missing_experts_name_the_command_that_records_them(
    ddb: Callable, refused: Refused, tmp_path: Path, data_root: Path
):
    line = refused(distill_tiny(tmp_path / "none", tmp_path / "out"), str(tmp_path / "none"), TINY)
    argv = named_command(line)
    assert argv[argv.index("--buffers") + 1] == str(tmp_path / "none")
    # the command works, and what it records is what was asked for
    quick = [*argv[1:], "--experts", "1", "--epochs", "2", "--workers", "1", *EAGER, "--quiet"]
    assert ddb(*quick).code == 0
    assert ddb(*distill_tiny(tmp_path / "none", tmp_path / "out")).code == 0


@pytest.mark.parametrize(
    ("more", "needles"),
    [
        (("--preprocess", "zca"), ("has preprocess meanstd, wanted zca", "--preprocess zca")),
        (("--holdout", 0.2), ("recorded with --holdout 0.1, wanted 0.2", "--holdout 0.2")),
    ],
)
def test_experts_of_other_settings(more, needles, refused: Refused, buffers: Path, tmp_path: Path):
    line = refused([*distill_tiny(buffers, tmp_path / "out"), *more], *needles)
    argv = named_command(line)
    assert argv[argv.index(str(more[0])) + 1] == str(more[1])


def test_experts_of_another_student(refused: Refused, buffers: Path, tmp_path: Path):
    other = "convnet-d1-w8-in"
    argv = [other if part == TINY else part for part in distill_tiny(buffers, tmp_path / "out")]
    refused(argv, other, f"ddbench buffer --dataset digits --student {other}")
    # the same when the store folder itself is given
    store = next(buffers.glob("*/*/*"))
    argv = [other if part == TINY else part for part in distill_tiny(store, tmp_path / "out")]
    refused(argv, f"is of {TINY} on digits", f"--student {other}")


def test_experts_of_other_data(refused: Refused, buffers: Path, store_folder: Path, tmp_path: Path):
    manifest = store_folder / "manifest.json"
    record = json.loads(manifest.read_text())
    record["dataset_fingerprint"] = "0" * 64
    manifest.write_text(json.dumps(record))
    line = refused(distill_tiny(buffers, tmp_path / "out"), "other data", "fingerprint 000000000000", str(store_folder))
    named_command(line)


def test_experts_of_other_numbers(refused: Refused, buffers: Path, store_folder: Path, tmp_path: Path):
    manifest = store_folder / "manifest.json"
    record = json.loads(manifest.read_text())
    record["preprocess"]["mean"] = [0.5]
    manifest.write_text(json.dumps(record))
    refused(distill_tiny(buffers, tmp_path / "out"), "other preprocess numbers", str(store_folder))


def test_experts_with_too_few_epochs(refused: Refused, ddb: Callable, buffers: Path, tmp_path: Path):
    long = ("--max-start-epoch", 4, "--expert-epochs", 2)
    line = refused(
        distill_tiny(buffers, tmp_path / "out", *long),
        "--max-start-epoch 4",
        "--expert-epochs 2",
        "at least 5 epochs",
        "have 4",
        "--epochs 5",
    )
    assert "lower --max-start-epoch to 3" in line
    assert ddb(*distill_tiny(buffers, tmp_path / "out", "--max-start-epoch", 3, "--expert-epochs", 2)).code == 0


# Folders and disks


def commands_that_write(place: Path, buffers: Path, run: Path) -> dict[str, list[object]]:
    """One command a verb, each writing to ``place``."""
    return {
        "distill-random": random_tiny(place),
        "distill-mtt": distill_tiny(buffers, place),
        "buffer": [*BUFFER, "--quiet", "--buffers", place],
        "evaluate": evaluate_tiny(run, "--out", place / "score.json"),
        "export-png": ["export", run, "--format", "png", "--out", place],
        "export-grid": ["export", run, "--format", "grid", "--out", place],
        "export-npz": ["export", run, "--format", "npz", "--out", place],
        "import": ["import", run / "images.pt", "--dataset", "digits", "--out", place],
        "buffer-import": [
            *("buffer", "import", run / "replay.pt", "--dataset", "digits", "--student", TINY, "--buffers", place)
        ],
        "submit": ["submit", run, "--leaderboard", place],
    }


WRITERS = (*commands_that_write(Path(), Path(), Path()),)


@pytest.fixture
def sources(random_run: Path) -> Path:
    """A finished run with foreign files beside it that import verbs can read."""
    from ddbench.networks.build import build_student

    torch.save(torch.zeros(10, 1, 8, 8), random_run / "images.pt")
    nets = [build_student(TINY, channels=1, size=8, classes=10, seed=seed) for seed in range(2)]
    torch.save([[[p.detach().clone() for p in net.parameters()] for net in nets]], random_run / "replay.pt")
    return random_run


@pytest.mark.parametrize("name", WRITERS)
def test_folder_below_a_regular_file(name: str, refused: Refused, sources: Path, buffers: Path, tmp_path: Path):
    blocker = tmp_path / "file"
    blocker.write_text("a file, not a folder")
    refused(commands_that_write(blocker / "below", buffers, sources)[name], str(blocker), "cannot write")


@pytest.mark.parametrize("name", WRITERS)
def test_full_disk(name: str, ddb: Callable, sources: Path, buffers: Path, tmp_path: Path, monkeypatch):
    """Every flush to the disk fails: one line, no part of a file is left, what was there stays."""
    place = tmp_path / "place"

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        result = ddb(*commands_that_write(place, buffers, sources)[name])
    assert result.code == 2, result
    assert len(result.err.splitlines()) == 1, result.err
    assert "the disk is full" in result.err or "No space left on device" in result.err
    assert str(place) in result.err
    after = contents(tmp_path)
    assert after == before, sorted(set(after) - set(before))
    assert ddb(*commands_that_write(place, buffers, sources)[name]).code == 0, "it goes on when there is space again"


def test_full_disk_keeps_an_earlier_file(tmp_path: Path, monkeypatch):
    from ddbench.runtime.errors import UserError
    from ddbench.runtime.files import write_json

    path = tmp_path / "result.json"
    write_json(path, {"old": 1})

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"result\.json: the disk is full"):
        write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["result.json"]


def test_full_disk_while_metrics_are_written(ddb: Callable, buffers: Path, tmp_path: Path, monkeypatch):
    """The metrics file is open for the whole run; its failure is told in one line too, and the run can go on."""
    from ddbench.runtime.tracking import JsonLines

    whole = JsonLines.log

    def full(self: JsonLines, iteration: int, metrics: dict[str, float]) -> None:
        if iteration == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(self, iteration, metrics)

    argv = distill_tiny(buffers, tmp_path / "out", "--checkpoint-every", 1)
    with monkeypatch.context() as patch:
        patch.setattr(JsonLines, "log", full)
        result = ddb(*argv)
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    assert "Traceback" not in result.err
    assert "No space left" in result.err or "disk is full" in result.err
    assert ddb(*argv).code == 0
    assert ddb(*distill_tiny(buffers, tmp_path / "whole", "--checkpoint-every", 1)).code == 0
    for name in ("synset.safetensors", "metrics.jsonl", "preview.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


# Runs that are there already


def test_run_folder_of_another_run(refused: Refused, random_run: Path, mtt_run: Path, buffers: Path):
    refused(random_tiny(random_run, "--seed", 5), "seed", "another run", str(random_run))
    refused(random_tiny(random_run, "--ipc", 2), "ipc", "another run")
    refused(distill_tiny(buffers, mtt_run, "--lr-images", 11), "config.lr_images", "another run")
    refused(distill_tiny(buffers, random_run), "method", "another run")
    refused(random_tiny(random_run, "--holdout", 0.2), "holdout", "another run")


@pytest.mark.parametrize("text", ["[]", "{}", '"x"', "{", '{"method": "random", "config": 3, "preprocess": []}'])
def test_run_folder_with_a_spoiled_configuration(text: str, refused: Refused, random_run: Path):
    (random_run / "config.json").write_text(text)
    refused(random_tiny(random_run), str(random_run))


def test_folder_with_foreign_files(refused: Refused, tmp_path: Path, buffers: Path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.tex").write_text("precious")
    refused(random_tiny(out), str(out), "no ddbench run")
    refused(distill_tiny(buffers, out), str(out), "no ddbench run")
    file = tmp_path / "file"
    file.write_text("precious")
    refused(random_tiny(file), str(file), "no ddbench run")


def test_import_into_a_folder_with_other_files(refused: Refused, sources: Path, tmp_path: Path, buffers: Path):
    refused(["import", sources / "images.pt", "--dataset", "digits", "--out", sources], str(sources), "synset")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.json").write_text("{}")
    refused(["import", sources / "images.pt", "--dataset", "digits", "--out", unfinished], str(unfinished))


def test_finished_runs_are_left_alone(ddb: Callable, random_run: Path, mtt_run: Path, buffers: Path, tmp_path: Path):
    loud = [part for part in random_tiny(random_run) if part != "--quiet"]
    evaluation = [part for part in evaluate_tiny(random_run) if part != "--quiet"]
    store = ["buffer", "--dataset", "digits", "--student", TINY, "--experts", 2, "--epochs", 4, "--workers", 1]
    store += [*EAGER, "--buffers", buffers]
    mtt = [part for part in distill_tiny(buffers, mtt_run) if part != "--quiet"]
    for argv, told in (
        (loud, "finished already"),
        (mtt, "finished already"),
        (evaluation, "finished already"),
        (store, "all 2 experts are recorded"),
    ):
        before = listing(tmp_path)
        result = ddb(*argv)
        assert result.code == 0, result.err
        assert told in result.err
        assert result.out, "the result is still printed"
        assert listing(tmp_path) == before


def test_more_seeds_keep_the_finished_ones(ddb: Callable, random_run: Path, tmp_path: Path):
    """Extending an evaluation trains the new seeds only, and gives the bytes of one that asked for all at once."""
    argv = [part for part in evaluate_tiny(random_run, "--seeds", 3) if part != "--quiet"]
    result = ddb(*argv)
    assert "2 of 3 runs are there" in result.err
    assert ddb(*argv, "--out", tmp_path / "fresh.json").code == 0
    old = next(path for path in (random_run / "evaluations").glob("*.json") if "cost" not in path.name)
    assert old.read_bytes() == (tmp_path / "fresh.json").read_bytes()
    costs = json.loads(old.with_name(f"{old.stem}.cost.json").read_text())
    assert [run["seed"] for run in costs["runs"]] == [0, 1, 2]


def test_other_evaluation_under_the_same_name(refused: Refused, random_run: Path, mtt_run: Path, tmp_path: Path):
    old = next(path for path in (random_run / "evaluations").glob("*.json") if "cost" not in path.name)
    refused(evaluate_tiny(mtt_run, "--out", old), str(old), "another evaluation", "synset")
    refused(evaluate_tiny(random_run, "--out", old, "--lr", 0.5), str(old), "another evaluation", "protocol")
    foreign = tmp_path / "notes.json"
    foreign.write_text('{"kind": "notes"}')
    refused(evaluate_tiny(random_run, "--out", foreign), str(foreign), "not an evaluation")
