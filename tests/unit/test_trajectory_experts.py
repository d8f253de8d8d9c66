"""Which experts a method gets: the kind that it asks for, the settings that its recipe names."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import EAGER, TINY, TINY_EPOCHS, contents, distill_tiny

from ddbench.cli.buffer import EXAMPLES, Args
from ddbench.cli.parse import parse
from ddbench.experts.recipe import ExpertRecipe, buffer_command
from ddbench.experts.store import TrajectoryStore, expert_file, find_stores, read_store
from ddbench.methods.mtt import MTT


def as_if(buffers: Path, name: str, experts: int = 2, **values: Any) -> TrajectoryStore:
    """A copy of the tiny experts that says it was recorded otherwise, with the first so many of its experts."""
    (plain,) = [store for store in find_stores(buffers) if len(store.folder.name) == 12]
    folder = Path(shutil.copytree(plain.folder, plain.folder.parent / name))
    store = read_store(folder)
    store.recipe = replace(plain.recipe, **values)
    store.experts = {index: store.experts[index] for index in store.indices[:experts]}
    store.write_manifest()
    return read_store(folder)


def ftd(buffers: Path, out: Path, *more: object) -> list[object]:
    return ["ftd" if part == "mtt" else part for part in distill_tiny(buffers, out, *more)]


def used(out: Path) -> dict[str, Any]:
    """What a run says of its experts."""
    found: dict[str, Any] = json.loads((out / "config.json").read_text())["experts"]
    return found


def test_another_kind_is_refused(refused: Callable, buffers: Path, tmp_path: Path):
    line = refused(ftd(buffers, tmp_path / "out"), "holds sgd experts, ftd asks for gsam", "--kind gsam")
    words = shlex.split(line[line.rindex("ddbench buffer") :])
    args = parse(Args, words[2:], "ddbench buffer", "", EXAMPLES)
    own = args.settings
    assert (own.kind, args.student, own.rho, own.alpha) == ("gsam", TINY, 0.01, 0.3)


def test_the_flags_of_a_recipe_give_it_again():
    recipe = ExpertRecipe(
        lr=0.0123456789,
        weight_decay=1 / 3,
        options=(("betas", 0.1234567), ("eps", 1e-8)),
        decay=True,
        holdout=0.05,
        kind="gsam",
        rho=1e-7,
    )
    words = buffer_command("digits", TINY, recipe, 3, "expert_trajectories", None).split()
    assert parse(Args, words[2:], "ddbench buffer", "", EXAMPLES).settings == recipe
    assert "--rho 1e-07 " in f"{recipe.flags()} "
    assert "--holdout 0.05 " in f"{recipe.flags()} "


def test_the_named_command_records_what_was_asked_for(ddb: Callable, refused: Callable, buffers: Path, tmp_path: Path):
    line = refused(ftd(buffers, tmp_path / "out"), "ddbench buffer")
    words = shlex.split(line[line.rindex("ddbench buffer") :])
    quick = ("--experts", 1, "--epochs", TINY_EPOCHS, "--batch", 512, "--workers", 1, "--quiet", *EAGER)
    assert ddb(*words[1:], *quick).code == 0
    assert ddb(*ftd(buffers, tmp_path / "out")).code == 0
    assert used(tmp_path / "out")["recipe"]["kind"] == "gsam"
    # and MTT still takes its own, though the flat ones are no worse
    assert ddb(*distill_tiny(buffers, tmp_path / "mtt")).code == 0
    assert used(tmp_path / "mtt")["recipe"]["kind"] == "sgd"


def test_mtt_does_not_take_flat_experts(refused: Callable, buffers: Path, store_folder: Path, tmp_path: Path):
    as_if(buffers, "flat", kind="gsam")
    shutil.rmtree(store_folder)
    line = refused(distill_tiny(buffers, tmp_path / "out"), "holds gsam experts, mtt asks for sgd")
    assert "--kind" not in line


@pytest.mark.parametrize("method", [distill_tiny, ftd])
def test_imported_experts_fit_any_method(
    method: Callable, ddb: Callable, buffers: Path, store_folder: Path, tmp_path: Path
):
    as_if(buffers, "foreign", kind="imported")
    shutil.rmtree(store_folder)
    assert ddb(*method(buffers, tmp_path / "out")).code == 0


def test_trajectories_that_a_run_derived_are_no_experts(
    refused: Callable, buffers: Path, store_folder: Path, tmp_path: Path
):
    manifest = store_folder / "manifest.json"
    record = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**record, "parent": {"identity": "0", "stage": 1, "synset": "0"}}))
    refused(distill_tiny(buffers, tmp_path / "out"), str(store_folder), "derived")


def recipe_file(path: Path, experts: str) -> Path:
    path.write_text(
        f'[one]\nsource = "test"\ndataset = "digits"\nipc = 1\nstudent = "{TINY}"\nexperts = {{ {experts} }}\n'
    )
    return path


def with_recipe(argv: list[object], path: Path) -> list[object]:
    return [path if part == "none" else part for part in argv]


@pytest.mark.parametrize(
    "values", [{"lr": 0.02}, {"batch": 32}, {"optimizer": "adam"}, {"lr": 0.03, "batch": 128}], ids=str
)
def test_the_settings_of_the_recipe_come_first(values: dict[str, Any], ddb: Callable, buffers: Path, tmp_path: Path):
    """Before a store with more experts that merely fits."""
    as_if(buffers, "asked", experts=1, **values)
    text = ", ".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
    path = recipe_file(tmp_path / "mine.toml", f"epochs = {TINY_EPOCHS}, {text}")
    assert ddb(*with_recipe(distill_tiny(buffers, tmp_path / "out"), path)).code == 0
    recipe = used(tmp_path / "out")["recipe"]
    assert {key: recipe[key] for key in values} == values
    # without a recipe, and with one that asks for something that is not there, the larger store
    assert ddb(*distill_tiny(buffers, tmp_path / "plain")).code == 0
    assert used(tmp_path / "plain")["count"] == 2
    path = recipe_file(tmp_path / "other.toml", "epochs = 99")
    assert ddb(*with_recipe(distill_tiny(buffers, tmp_path / "other"), path)).code == 0
    assert used(tmp_path / "other")["count"] == 2


def test_numbers_of_the_kind_count_too(ddb: Callable, buffers: Path, tmp_path: Path):
    as_if(buffers, "near", kind="gsam")
    as_if(buffers, "far", experts=1, kind="gsam", rho=0.5)
    path = recipe_file(tmp_path / "mine.toml", f'epochs = {TINY_EPOCHS}, kind = "gsam", rho = 0.5')
    assert ddb(*with_recipe(ftd(buffers, tmp_path / "out"), path)).code == 0
    assert used(tmp_path / "out")["recipe"]["rho"] == 0.5


def test_a_recipe_may_ask_for_another_kind(ddb: Callable, refused: Callable, buffers: Path, tmp_path: Path):
    """FTD on plain experts, MTT on flat ones; a recipe that names no kind asks for the method's."""
    plain = recipe_file(tmp_path / "plain.toml", f'epochs = {TINY_EPOCHS}, kind = "sgd"')
    assert ddb(*with_recipe(ftd(buffers, tmp_path / "out"), plain)).code == 0
    assert used(tmp_path / "out")["recipe"]["kind"] == "sgd"
    silent = recipe_file(tmp_path / "silent.toml", f"epochs = {TINY_EPOCHS}, lr = 0.02, experts = 3")
    line = refused(
        with_recipe(ftd(buffers, tmp_path / "new"), silent),
        "ftd asks for gsam",
        f"--experts 3 --epochs {TINY_EPOCHS}",
        "--lr 0.02",
        "--kind gsam",
    )
    assert "--rho" not in line
    flat = recipe_file(tmp_path / "flat.toml", f'epochs = {TINY_EPOCHS}, kind = "gsam"')
    refused(with_recipe(distill_tiny(buffers, tmp_path / "new"), flat), "holds sgd experts, mtt asks for gsam")


def test_buffer_takes_the_kind_of_a_recipe(ddb: Callable, tmp_path: Path):
    path = recipe_file(tmp_path / "mine.toml", "experts = 1, epochs = 1, batch = 512, rho = 0.25")
    result = ddb(
        "buffer", "--recipe", f"ftd/{path}", "--buffers", tmp_path / "new", "--workers", 1, "--quiet", *EAGER
    )  # fmt: skip
    assert result.code == 0, result.err
    (store,) = find_stores(tmp_path / "new")
    assert (store.recipe.kind, store.recipe.rho, store.recipe.alpha) == ("gsam", 0.25, 0.3)
    # a flag overrides the recipe, to the point of another kind
    result = ddb(
        "buffer", "--recipe", f"ftd/{path}", "--kind", "smooth", "--buffers", tmp_path / "no", "--quiet", *EAGER
    )  # fmt: skip
    assert result.code == 2
    assert "--rho 0.25" in result.err


@pytest.mark.parametrize("finished", [False, True], ids=["interrupted", "finished"])
@pytest.mark.parametrize("more", ["in the store", "before it in the store", "in another one"])
def test_a_run_keeps_the_experts_it_began_with(
    more: str,
    finished: bool,
    ddb: Callable,
    buffers: Path,
    store_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """What is recorded later is for other runs: more experts of the same store, or a store that ranks above it.

    Of several processes that record, one may be done with a later expert first.
    """
    whole = read_store(store_folder)
    own = whole.first(1)
    if more == "before it in the store":
        own = replace(whole, experts={1: whole.experts[1]})
        os.utime(store_folder / expert_file(1), (0, 0))
    own.write_manifest()
    command = distill_tiny(buffers, tmp_path / "out", "--checkpoint-every", 1)
    assert ddb(*distill_tiny(buffers, tmp_path / "whole", "--checkpoint-every", 1)).code == 0
    step, end = MTT.step, 99 if finished else 2

    def halted(method: MTT, iteration: int) -> dict[str, float]:
        if iteration == end:
            raise KeyboardInterrupt
        return step(method, iteration)

    with monkeypatch.context() as patched:
        patched.setattr(MTT, "step", halted)
        assert (ddb(*command).code == 0) == finished
    whole.write_manifest()
    if more == "in another one":
        as_if(buffers, "better", lr=0.02)
        whole.first(1).write_manifest()
    result = ddb(*[part for part in command if part != "--quiet"])
    assert result.code == 0, result.err
    assert ("finished already" in result.out + result.err) == finished
    assert contents(tmp_path / "out", "cost.json") == contents(tmp_path / "whole", "cost.json")
    assert used(tmp_path / "out")["count"] == 1
    assert json.loads((tmp_path / "out" / "cost.json").read_text())["upstream"]["experts"]["experts"] == 1
    assert ddb(*distill_tiny(buffers, tmp_path / "new")).code == 0
    assert used(tmp_path / "new")["count"] == 2


def test_a_store_that_cannot_be_read_is_passed_by(
    ddb: Callable, refused: Callable, buffers: Path, store_folder: Path, tmp_path: Path
):
    as_if(buffers, "newer")
    manifest = store_folder.parent / "newer" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema": 2}))
    assert ddb(*distill_tiny(buffers, tmp_path / "out")).code == 0
    assert used(tmp_path / "out")["count"] == 2
    shutil.rmtree(store_folder)
    refused(distill_tiny(buffers, tmp_path / "none"), f"{manifest}: schema 2 was made by a newer ddbench: upgrade")
