"""Settings that others leave without effect are refused, those of this IPC or student told; else they are taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import EAGER, TINY, digits_context

from ddbench.config import apply_config, check_config, refuse_idle, without_idle
from ddbench.leaderboard.schema import load_results
from ddbench.methods import METHODS
from ddbench.methods.random import Random, RandomConfig
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console

BOARD = Path(__file__).parents[2] / "leaderboard"
DEEPER = "convnet-d2-w4-in"

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "shifts": ("edc", {"signed_jitter": True}, {"jitter": 2}, "with --jitter 0"),
    "curriculum of no crops": ("guard", {"curriculum": "cosine"}, {"crop_scale": 0.5}, "with --crop-scale 1"),
    "milestone of no crops": ("cda", {"crop_scale": 1.0, "milestone": 0.5}, {"crop_scale": 0.5}, "with --crop-scale 1"),
    "curriculum of no length": ("cda", {"curriculum": "step", "milestone": 0.0}, {"milestone": 0.5}, "--milestone 0"),
    "spread of one image": ("edc", {"densify": 1.0}, {"order": "class"}, "with --order index: a batch has one image"),
    "order of one batch": ("gvbsm", {"order": "index", "joint": True}, {"joint": False}, "with --joint True"),
    "size of one batch": ("gvbsm", {"batch": 7, "joint": True}, {"joint": False}, "with --joint True"),
    "untrained network": (
        "dsa",
        {"lr_student": 0.1, "outer_loops": 1},
        {"outer_loops": 2, "inner_epochs": 3},
        "with --outer-loops 1",
    ),
    "network of IDC": ("idc", {"cutmix": 0.1, "net_images": 0}, {"net_images": 9}, "with --net-images 0"),
    "released solver": ("rcig", {"solver": "adam", "paper_code": True}, {"paper_code": False}, "--paper-code True"),
    "rate of Adam": ("rcig", {"lr_inner": 0.5}, {"paper_code": True}, "with --solver cg"),
    "skewness of weight 0": (
        "d3hr",
        {"skew": "per_image", "skew_weight": 0.0},
        {"skew_weight": 1.0},
        "--skew-weight 0",
    ),
    "end of no pull": ("mgd3", {"stop": 5, "mode_guidance": 0.0}, {"mode_guidance": 0.1}, "with --mode-guidance 0"),
    "pull in no step": ("mgd3", {"mode_guidance": 0.5, "stop": 50}, {"stop": 5}, "with --stop 50: no step is left"),
    "modes of no pull": ("mgd3", {"images": 9, "mode_guidance": 0.0}, {"mode_guidance": 0.1}, "with --mode-guidance 0"),
    "gradients that guide nothing": ("igd", {"images": 9, "influence": 0.0}, {"influence": 0.1}, "no real gradient"),
    "score of one group": ("d3hr", {"std_weight": 2.0, "candidates": 1}, {"candidates": 2}, "there is no choice"),
    "mask of all": ("fred-dm", {"mask_from": "class", "coefficients": 64}, {"coefficients": 32}, "of them are kept"),
    "no guidance": ("igd", {"guide_to": 0.8, "influence": 0.0, "deviation": 0.0}, {"deviation": 1.0}, "is guided"),
    "no tuning": ("minimax", {"ema": 0.5, "tuning_steps": 0}, {"tuning_steps": 9}, "with --tuning-steps 0"),
    "one epoch to match": (
        "ast",
        {"intermediate": "none", "expert_epochs": 1},
        {"expert_epochs": 2},
        "--expert-epochs 1",
    ),
    "fixed labels": ("datm", {"momentum_labels": 0.5, "lr_labels": 0.0}, {"lr_labels": 1.0}, "with --lr-labels 0"),
    "no guide": ("cudd", {"guide_epochs": 3, "phases": "2"}, {"phases": "1,2"}, "with one phase"),
    "rate of no fit": ("ddif-dm", {"lr_fit": 0.1, "fit_steps": 0}, {"fit_steps": 1}, "with --fit-steps 0"),
    "images of no fit": ("ddif-mtt", {"init": "noise", "fit_steps": 0}, {"fit_steps": 1}, "with --fit-steps 0"),
    "decay of 1": ("dd", {"decay_every": 9, "decay": 1.0}, {"decay": 0.5}, "with --decay 1"),
    "cooling to 1": ("doscond", {"cooling": 9, "coldest": 1.0}, {"coldest": 0.5}, "with --coldest 1"),
    "epochs before one stage": ("pdd", {"stage_epochs": 9, "stages": 1}, {"stages": 2}, "with --stages 1"),
}
"""What is refused of a method (at IPC 2), with which change it is taken, and words of the refusal."""

HERE: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "spread at IPC 1": ("gvbsm", {"densify": 2.0, "ipc": 1}, {"ipc": 2}, "with --ipc 1"),
    "untrained at IPC 1": ("dc", {"batch_student": 9, "ipc": 1}, {"ipc": 10}, "the network is not trained"),
    "epochs at IPC 1": ("dsa", {"inner_epochs": 9, "ipc": 1}, {"inner_epochs": 1}, "the network is not trained"),
    "group of one": ("d3hr", {"std_weight": 2.0, "ipc": 1}, {"ipc": 2}, "with --ipc 1: a group is one image"),
    "first of its class": ("igd", {"deviation": 0.5, "ipc": 1}, {"ipc": 2}, "with --ipc 1: no image of the class"),
    "memory of none": ("igd", {"memory": 3, "ipc": 1}, {"ipc": 2}, "with --ipc 1: no image of the class"),
    "guidance of no push": (
        "igd",
        {"guide_to": 0.8, "influence": 0.0, "ipc": 1},
        {"ipc": 2},
        "--influence 0 and --ipc 1",
    ),
    "skewness of two": ("d3hr", {"skew_weight": 2.0}, {"skew": "per_image"}, "with --ipc 2: two values"),
    "guide trained once": ("cudd", {"guide_lr_again": 0.1, "ipc": 3}, {"phases": "1,2,3"}, "with two phases"),
    "modes in no step": ("mgd3", {"images": 9, "stop": 50}, {"stop": 5}, "with --stop 50: no step is left"),
    "matches of no step": (
        "ast",
        {"intermediate": "none", "student_steps": 1, "expert_epochs": 2},
        {"student_steps": 2},
        "with --student-steps 1, fewer than",
    ),
    "maps of one block": ("datadam", {"form": "paper"}, {"student": DEEPER}, f"with --student {TINY}: one block"),
}
"""The same of what is told only: flags of a series serve its other IPCs and students."""


@pytest.mark.parametrize(("name", "given", "change", "words"), CASES.values(), ids=CASES)
def test_settings_without_effect_are_refused(
    name: str, given: dict[str, Any], change: dict[str, Any], words: str, data_root: Path, tmp_path: Path
):
    assert look(name, {**given, **change}, data_root, tmp_path) == []
    with pytest.raises(UserError, match=r"^--[a-z-]+ \S+: ") as caught:
        look(name, given, data_root, tmp_path)
    assert words in str(caught.value)


@pytest.mark.parametrize(("name", "given", "change", "words"), HERE.values(), ids=HERE)
def test_what_the_ipc_or_the_student_leaves_without_effect_is_told(
    name: str, given: dict[str, Any], change: dict[str, Any], words: str, data_root: Path, tmp_path: Path
):
    assert look(name, {**given, **change}, data_root, tmp_path) == []
    (told,) = look(name, given, data_root, tmp_path)
    assert words in told


def test_a_flag_of_a_series_of_ipcs(ddb: Callable, tmp_path: Path):
    run = ("--method", "dc", "--dataset", "digits", "--ipc", 1, "--student", TINY, "--out", tmp_path / "run", *EAGER)
    done = ddb("distill", *run, "--iterations", 1, "--recipe", "none", "--lr-student", 0.02)
    assert done.code == 0, done.err
    assert "--lr-student 0.02: it has no effect with one outer loop: the network is not trained\n" in done.err


@pytest.mark.parametrize("name", ["fred-dc", "ddif-dc"])
def test_decoded_images_leave_it_at_that(name: str, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    """Told as of DC, though the loops of the IPC are settled before the family looks; with a flag, refused."""
    context = replace(digits_context(data_root, tmp_path, ipc=1), console=Console())
    small = {"coefficients": 16} if name == "fred-dc" else {"layers": 1, "width": 3}
    kind = METHODS.get(name)
    kind.check(kind.config_class(lr_student=0.02, **small), context)
    told = "--lr-student 0.02: it has no effect with one outer loop: the network is not trained\n"
    assert capsys.readouterr().err == told
    with pytest.raises(UserError, match=r"^--lr-student 0.02: it has no effect with --outer-loops 1$"):
        kind.check(kind.config_class(lr_student=0.02, outer_loops=1, **small), context)


def look(name: str, said: dict[str, Any], data_root: Path, folder: Path) -> list[str]:
    """What is told of settings of a method; UserError if they are refused."""
    kind = METHODS.get(name)
    run = {key: said[key] for key in ("ipc", "student") if key in said}
    config = kind.config_class(**{key: value for key, value in said.items() if key not in run})
    check_config(config)
    return refuse_idle(config, kind.idle(config, digits_context(data_root, folder, **run)))


def test_every_method_is_asked(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By :meth:`Method.check`, after the ranges; a setting at its default is no matter."""
    context = digits_context(data_root, tmp_path)
    monkeypatch.setattr(Random, "idle", classmethod(lambda cls, config, context: {"no_such": "here"}))
    Random.check(RandomConfig(), context)
    idc = METHODS.get("idc")
    monkeypatch.setattr(idc, "idle", classmethod(lambda cls, config, context: {"factor": "on Sundays"}))
    idc.check(idc.config_class(), context)
    with pytest.raises(UserError, match=r"^--factor 1: it has no effect on Sundays$"):
        idc.check(idc.config_class(factor=1), context)


def test_what_is_a_recipes_goes_where_a_flag_leaves_it_without_effect():
    """A flag that was typed is refused there."""
    kind = METHODS.get("minimax").config_class
    recipe = kind(steps=50, tuning_steps=1200, ema=0.999)
    assert without_idle(replace(recipe, tuning_steps=0), recipe) == kind(steps=50, tuning_steps=0)
    typed = replace(recipe, tuning_steps=0, ema=0.5)
    assert without_idle(typed, recipe) == typed
    spoilt = replace(recipe, tuning_steps=0)
    assert without_idle(spoilt, spoilt) == spoilt, "a recipe of its own is at fault"


def test_recipe_and_flag_on_the_command_line(ddb: Callable, tmp_path: Path):
    (tmp_path / "mine.toml").write_text(
        '[mine]\nsource = "here"\ndataset = "digits"\nipc = 1\nstudent = "convnet-d1-w4-in"\n'
        'config = { sampler = "dream", sampler_interval = 3, iterations = 1, batch_real = 4 }\n'
    )
    flags = ("--recipe", tmp_path / "mine.toml", "--sampler", "random", "--quiet", "--compile", "off", "--threads", 1)
    done = ddb("distill", "--method", "dm", *flags, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["sampler_interval"] == 10


def test_settings_of_the_board_are_taken(data_root: Path, tmp_path: Path):
    """Those of its rows, as their commands give them."""
    context, seen = digits_context(data_root, tmp_path), set()
    for result in load_results(BOARD):
        synset = result.synset
        config = {key: value for key, value in (synset.config or {}).items() if key != "holdout"}
        if synset.method not in METHODS:
            continue
        kind = METHODS.get(synset.method).fitting(synset.method, synset.dataset, synset.modality)
        made = apply_config(kind.config_class, config, synset.method)
        ipc = synset.budget.value if synset.budget.unit == "ipc" else 0
        case = (synset.method, repr(made), ipc, synset.student)
        if case not in seen:
            seen.add(case)
            check_config(made)
            refuse_idle(made, kind.idle(made, replace(context, ipc=ipc, student=synset.student or TINY)))
    assert len(seen) > 60


def test_a_compiler_without_use_is_told(ddb: Callable, buffers: Path, tmp_path: Path):
    """Of methods that compile nothing, of an inner loop in one graph, of what is differentiated twice."""
    how = ("--student", TINY, "--threads", 1, "--compile", "on")
    done = ddb("distill", "--method", "dm", "--ipc", 1, "--iterations", 1, *how, "--out", tmp_path / "dm")
    assert "--compile on: DM itself runs eagerly" in done.err, done.err
    mtt = ("--ipc", 1, "--buffers", buffers, "--iterations", 1, "--student-steps", 1, "--max-start-epoch", 2)
    mtt += ("--recipe", "none", "--lr-images", 1, "--inner", "unroll", "--out", tmp_path / "mtt")
    done = ddb("distill", "--method", "mtt", *mtt, *how)
    assert (done.code, done.err.count("--compile on: MTT itself runs eagerly")) == (0, 1), done.err
    done = ddb("buffer", "--kind", "smooth", "--experts", 1, "--epochs", 1, *how, "--buffers", tmp_path, "--workers", 1)
    assert "--compile on: smooth experts are trained eagerly" in done.err, done.err
    curved = ("--penalty", "curvature", "--epochs", 1, "--teachers", tmp_path)
    done = ddb("teacher", *curved, *how)
    assert "--compile on: a teacher with --penalty curvature is trained eagerly" in done.err, done.err
