"""Names that other codes use: the message says ours. And a help that is grouped, in words."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ddbench.cli.help import field_words
from ddbench.cli.main import VERBS
from ddbench.networks.names import STUDENTS, parse_student
from ddbench.registry import ALIASES, fold, suggest


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["evaluate", "runs/x", "--students", "ResNet18"], "resnet18-in"),
        (["evaluate", "runs/x", "--students", "ResNet18BN"], "resnet18-bn"),
        (["evaluate", "runs/x", "--students", "ResNet18_AP"], "resnet18ap-in"),
        (["evaluate", "runs/x", "--students", "ConvNet"], "convnet-d3-w128-in"),
        (["evaluate", "runs/x", "--students", "ConvNetD4"], "convnet-d4-w128-in"),
        (["evaluate", "runs/x", "--students", "VGG11"], "vgg11-in"),
        (["evaluate", "runs/x", "--students", "AlexNet"], "alexnet"),
        (["evaluate", "runs/x", "--students", "LeNet"], "lenet"),
        (["evaluate", "runs/x", "--students", "MLP"], "mlp-d3-w128"),
        (["evaluate", "runs/x", "--students", "MTT"], "mtt"),
        (["evaluate", "runs/x", "--protocol", "RDED"], "rded"),
        (["distill", "--method", "MTT", "--ipc", "1"], "mtt"),
        (["distill", "--method", "SRe2L", "--ipc", "1"], "sre2l"),
        (["distill", "--method", "random", "--ipc", "1", "--dataset", "CIFAR10"], "cifar10"),
        (["distill", "--method", "random", "--ipc", "1", "--dataset", "FashionMNIST"], "fashion-mnist"),
        (["distill", "--method", "random", "--ipc", "1", "--dataset", "ImageNet"], "imagenet-1k"),
        (["distill", "--method", "random", "--ipc", "1", "--dataset", "CIFAR-100"], "cifar100"),
        (["list", "Methods"], "methods"),
        (["Distill"], "distill"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[-1],
)
def test_names_of_the_field(argv: list[str], meant: str, refused: Callable):
    refused(argv, f"did you mean '{meant}'")


@pytest.mark.parametrize(
    ("verb", "flag", "meant"),
    [
        ("evaluate", "--model", "--students"),
        ("evaluate", "--num_eval", "--seeds"),
        ("evaluate", "--epoch_eval_train", "--epochs"),
        ("evaluate", "--data_path", "--data"),
        ("evaluate", "--student", "--students"),
        ("evaluate", "--SEEDS", "--seeds"),
        ("distill", "--lr_img", "--lr-images"),
        ("distill", "--model", "--student"),
        ("distill", "--Iteration", "--iterations"),
        ("distill", "--IPC", "--ipc"),
        ("distill", "--images_per_class", "--ipc"),
        ("distill", "--syn_steps", "--student-steps"),
        ("distill", "--lr_teacher", "--lr-student"),
        ("distill", "--buffer_path", "--buffers"),
        ("distill", "--pix_init", "--init"),
        ("distill", "--dsa_strategy", "--augmentation"),
        ("distill", "--save_path", "--out"),
        ("buffer", "--num_experts", "--experts"),
        ("buffer", "--train_epochs", "--epochs"),
    ],
)
def test_flags_of_other_codes(verb: str, flag: str, meant: str, refused: Callable):
    first = {"evaluate": ["runs/x"], "distill": ["--method", "mtt"], "buffer": []}[verb]
    refused([verb, *first, flag, "1"], f"unknown flag {flag} (did you mean '{meant}'?)")


def test_aliases_are_folded_and_lead_to_students_that_exist():
    for alias, names in ALIASES.items():
        assert alias == fold(alias)
        assert names
    for name in (name for names in ALIASES.values() for name in names if name.startswith(("convnet-", "tv-", "mlp-"))):
        parse_student(name)
    assert suggest("--", ["", "abc"]) == ""
    assert suggest("ConvNet", STUDENTS) == " (did you mean 'convnet-d3-w128-in'?)"


def test_a_name_of_ours_is_meant_before_another_codes():
    assert suggest("MTT", ["mtt", "ftd"]) == " (did you mean 'mtt'?)"
    assert suggest("Model", ["model", "student"]) == " (did you mean 'model'?)"


@pytest.mark.parametrize("verb", [name for name in VERBS if name not in ("leaderboard",)])
def test_help_has_words_for_every_flag_and_no_inner_types(verb: str, ddb: Callable):
    text = ddb(verb, "--help").out
    for token in ("{None}", "NoneType", "STR", "FLOAT", "default: None", "VALUE", ":class:"):
        assert token not in text
    lines = text[text.index("examples:") :].splitlines()
    flags = [number for number, line in enumerate(lines) if line.startswith("  --")]
    for number in flags:
        said = lines[number][26:] or lines[number + 1]
        assert said.strip(), f"{verb}: no words for {lines[number]}"


def test_help_of_evaluate_is_grouped(ddb: Callable):
    text = ddb("evaluate", "--help").out
    heads = ["what is trained:", "what is measured:", "how it computes:", "where it is, and where it goes:"]
    places = [text.index(f"\n{head}\n") for head in heads]
    assert places == sorted(places)
    ends = [*places[1:], len(text)]
    for flag, head in {"--seeds": 0, "--calibration": 1, "--threads": 2, "--out": 3}.items():
        assert places[head] < text.index(f"\n  {flag} ") < ends[head], flag
    assert "  --lr NUMBER " in text
    assert "--lr-source protocol|synset|search" in text
    assert "\nflags:" not in text, "every flag of evaluate has a group"


def test_words_are_those_of_the_source():
    from ddbench.evaluation.start import Asked

    words = field_words(Asked)
    assert words["out"] == (
        "Result file; default: RUN/evaluations/<protocol>.json, for a row of a board evaluations/<id>/<protocol>.json."
    )
    assert words["device"] == "auto, cpu, cuda or cuda:<i>."


@pytest.mark.parametrize("verb", ["list", "leaderboard"])
def test_verbs_alone_say_what_there_is(verb: str, ddb: Callable):
    result = ddb(verb)
    assert (result.code, result.err) == (0, "")
    assert f"usage: ddbench {verb}" in result.out
    assert "examples:" in result.out


def test_what_is_missing_or_wrong_is_said(refused: Callable):
    refused(["evaluate"], "Missing from ddbench evaluate", "A run folder, or a synset file")
    said = refused(["evaluate", "x", "--lr", "abc"], "--lr abc: expected a number;")
    assert "None" not in said
    refused(["evaluate", "x", "--lr-source", "synsets"], "none of protocol, synset, search (did you mean 'synset'?)")
    refused(
        ["distill", "--method", "random", "--ipc", "one"],
        "--ipc one: expected a whole number; see ddbench distill --help",
    )
    refused(["diffusion", "train", "--widths", "8,16"], "--widths 8,16: expected numbers with spaces between them;")
    refused(["distill", "--method", "random", "--ipc"], "--ipc: a value is missing after it")
    refused(["distill", "--method", "random", "more"], "more: not expected here")
