"""Protocols: published settings never move, schedules and batches by closed form, files of one's own."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import pytest
import torch

from ddbench.data.augment import Strategy
from ddbench.data.policy import Policy, parse_policy
from ddbench.protocols.protocol import DESCRIPTIONS, PROTOCOLS, Protocol, changed, protocol, read_protocol, result_name
from ddbench.runtime.errors import UserError

DOCS = Path(__file__).parents[2] / "docs" / "protocols"

HASHES = {
    "hard-v1": "44136fa355b3678a",
    "dc-legacy": "084382ba2b23b493",
    "dc-plain": "e3d8c017bb9081da",
    "mtt": "c113ecfa4aa72d19",
    "idc": "952b1a129d6711d3",
    "ncfm": "da0d35369b52a914",
    "soft-v1": "c8975c64af3f988c",
    "labels-hard": "f7031a5ccb86ba2a",
    "labels-once": "2fe8d3b6f7d37851",
    "labels-view": "387667feff18e2c8",
    "pdd": "2bc0c127c8e1165b",
    "kd-v1": "465f6050586fc47f",
    "rded": "2d73ed90869cf793",
    "sre2l-cifar": "e038e6bdec2151ba",
    "sre2l-tiny": "65398d7472669df0",
    "fkd": "c80c6e7d07467336",
    "rd3": "677d4135d8ec579f",
    "edc": "c76a8c30539ee3c1",
    "edc-ema": "91c596ef1fc828f1",
    "gvbsm": "97908b08c04aaf89",
    "mse-v1": "6d34e99a5eaa8ca3",
    "dd-recipe": "9aa5c81aaeebc5fe",
}


def test_known():
    assert set(PROTOCOLS) == set(DESCRIPTIONS)
    for name, value in PROTOCOLS.items():
        assert value.name == name
        assert protocol(name) is value
        assert changed(value) == (value, {}), "every protocol passes the checks of its own settings"
    assert len({value.hash for value in PROTOCOLS.values()}) == len(PROTOCOLS)
    with pytest.raises(UserError, match=r"--protocol: unknown protocol 'hard' \(did you mean 'hard-v1'\?\)"):
        protocol("hard")
    with pytest.raises(UserError, match="--protocol graph-v1: it is for graphs, these are images"):
        protocol("graph-v1")


def test_published_protocols_never_change():
    """A protocol that a published row rests on is never edited. A changed one gets a new name."""
    assert {name: value.hash for name, value in PROTOCOLS.items()} == HASHES


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_each_has_a_page_that_says_what_it_does(name: str):
    """The page's settings are the protocol's, all of them; so defaults cannot move unnoticed either."""
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    block = text.split("```toml\n")[1].split("```")[0]
    assert tomllib.loads(block) == PROTOCOLS[name].settings()
    assert PROTOCOLS[name].hash in text
    assert f"](protocols/{name}.md)" in (DOCS.parent / "protocols.md").read_text(encoding="utf-8")


def test_a_setting_added_later_does_not_rename_older_protocols():
    assert Protocol(name="a").hash == Protocol(name="b").hash
    assert Protocol(name="a", epochs=5).hash != Protocol(name="a").hash


@pytest.mark.parametrize(("epochs", "drop"), [(1000, 501), (300, 151), (3, 2)])
def test_drop_of_hard_v1(epochs: int, drop: int):
    """DC, DSA, MTT: a tenth after E // 2 + 1 passes."""
    factors = [PROTOCOLS["hard-v1"].factor(epoch, epochs) for epoch in range(epochs)]
    assert factors == [1.0] * drop + [0.1] * (epochs - drop)


def test_drop_of_the_legacy_loop():
    """Its loop runs over 0..E and drops before pass index E // 2 + 2, E = 1000."""
    legacy = PROTOCOLS["dc-legacy"]
    assert (legacy.epochs, legacy.factor(501, 1001), legacy.factor(502, 1001)) == (1001, 1.0, 0.1)
    plain = PROTOCOLS["dc-plain"]
    assert (plain.epochs, plain.factor(151, 301), plain.factor(152, 301)) == (301, 1.0, 0.1), "E = 300"


def test_two_drops_of_idc():
    factor = PROTOCOLS["idc"].factor
    assert [factor(epoch, 1000) for epoch in (0, 665, 666, 832, 833)] == pytest.approx([1, 1, 0.2, 0.2, 0.04])


def test_views_of_idc():
    """Its DiffAug without cutout: flip and colour always, one of three moves; CutMix in half the batches."""
    idc = PROTOCOLS["idc"]
    views = ("flip", Strategy(("color",)), Strategy(("crop", "scale", "rotate")))
    policy = parse_policy(idc.augmentation, mix_probability=idc.mix_probability)
    assert policy == Policy(views, "cutmix", mix_probability=0.5)


def test_ncfm_trains_as_its_public_code():
    """Its AdamW is given no weight decay, so it has torch's; its views are IDC's: CutMix takes the place of cutout."""
    ncfm = PROTOCOLS["ncfm"]
    parameter = torch.nn.Parameter(torch.zeros(1))
    assert ncfm.weight_decay == torch.optim.AdamW([parameter]).defaults["weight_decay"]
    assert ncfm.augmentation == PROTOCOLS["idc"].augmentation


def test_cosines():
    full, half = PROTOCOLS["kd-v1"], PROTOCOLS["rded"]
    for epoch in (0, 75, 150, 299):
        assert full.factor(epoch, 300) == pytest.approx((1 + math.cos(math.pi * epoch / 300)) / 2)
        assert half.factor(epoch, 300) == pytest.approx((1 + math.cos(math.pi * epoch / 600)) / 2)
    assert half.factor(299, 300) == pytest.approx(0.5, abs=0.01), "RDED's ends at half the rate"
    assert full.factor(299, 300) == pytest.approx(0, abs=1e-4)


def test_rd3_by_student():
    """Zeta 1 for ResNet18, 2 for the others: ``(1 + cos(pi e / (zeta E))) / 2``."""
    rd3 = PROTOCOLS["rd3"]
    assert (rd3.epochs, rd3.batch_for(10_000, 100), rd3.lr, rd3.temperature) == (400, 50, 1e-3, 20)
    zetas = {"resnet18-bn": 1, "tv-resnet18-mod": 1, "resnet18ap-in": 2, "convnet-d3-w128-in": 2, "": 2}
    for student, zeta in zetas.items():
        for epoch in (0, 100, 399):
            expected = (1 + math.cos(math.pi * epoch / (zeta * 400))) / 2
            assert rd3.factor(epoch, 400, student) == pytest.approx(expected, abs=1e-12), student
    with pytest.raises(UserError, match="schedule_students: vgg11 has 'cosin', expected constant, step, cosine"):
        changed(rd3, schedule_students=[["vgg11", "cosin"]])


def test_warm_up():
    tiny = PROTOCOLS["sre2l-tiny"]
    assert [tiny.factor(epoch, 100) for epoch in (0, 1, 5)] == pytest.approx([0.01, 0.208, 1.0])
    assert tiny.factor(52, 100) == pytest.approx((1 + math.cos(math.pi * 47 / 95)) / 2)
    assert tiny.factor(3, 4) == pytest.approx(0.01 + 0.99 * 3 / 5), "fewer epochs than the warm-up: no division by 0"


@pytest.mark.parametrize(
    ("ipc", "classes", "batch"),
    [
        *((1, 10, 10), (10, 10, 50), (50, 10, 100), (3, 10, 10), (20, 10, 50)),
        *((1, 100, 20), (10, 100, 100), (50, 1000, 200), (1, 200, 100), (50, 200, 100), (1, 2, 2)),
    ],
)
def test_batches_of_rded(ipc: int, classes: int, batch: int):
    assert PROTOCOLS["rded"].batch_for(ipc * classes, classes) == batch
    assert PROTOCOLS["hard-v1"].batch_for(ipc * classes, classes) == 256


def test_rates_by_student():
    rded = PROTOCOLS["rded"]
    assert [rded.rate(name) for name in ("convnet-d3-w128-bn", "resnet18-bn")] == [0.001, 0.001]
    assert [rded.rate(name) for name in ("vgg11-in", "alexnet", "vit-d6-w512")] == [0.0005, 0.0001, 0.0001]


def test_changed():
    base = PROTOCOLS["hard-v1"]
    assert changed(base, epochs=None, lr=None) == (base, {})
    assert changed(base, epochs=1000) == (base, {}), "the standard value is no change"
    altered, difference = changed(base, epochs=5, augmentation="none")
    assert (altered.epochs, altered.augmentation, difference) == (5, "none", {"epochs": 5, "augmentation": "none"})
    assert altered.hash != base.hash
    assert result_name(base, {}) == "hard-v1"
    assert result_name(base, difference) == "hard-v1-nonstandard-augmentation=none-epochs=5"
    assert result_name(base, {}, {"at_once": 2}) == "hard-v1-at_once=2", "a row of it is standard"
    assert result_name(base, {"epochs": 5}, {"at_once": 2}) == "hard-v1-nonstandard-epochs=5-at_once=2"
    assert "/" not in result_name(base, {"augmentation": "../x y"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "--epochs 0: expected at least 1"),
        ({"epochs": 2.5}, "--epochs 2.5: expected int"),
        ({"epochs": True}, "--epochs True: expected int"),
        ({"lr": 0.0}, "--lr 0.0: expected a positive number"),
        ({"lr": math.nan}, "--lr nan"),
        ({"weight_decay": math.inf}, "--weight-decay inf"),
        ({"momentum": 1.5}, "--momentum 1.5: expected 0 to 1"),
        ({"schedule": "cos"}, "--schedule 'cos' is none of constant, step, cosine, half-cosine"),
        ({"rebuild": 1}, "--rebuild 1: expected bool"),
        ({"drops": [0.5, 2]}, "--drops"),
        ({"drops": 0.5}, "--drops 0.5: expected a list"),
        ({"lr_grid": []}, "--lr-grid"),
        ({"lr_students": [["vgg11"]]}, "--lr-students"),
        ({"labels": "teacher"}, "need loss 'kl' or 'mse-gt'"),
        ({"loss": "mse-gt"}, "compares with a teacher's logits"),
        ({"loss": "kl", "temperature": 20.0}, "loss 'kl' with labels 'own': it compares with a teacher's labels"),
        ({"labels": "hard", "loss": "kl"}, "loss 'kl' with labels 'hard'"),
        ({"labels": "soft", "loss": "kl", "temperature": 20.0}, "loss 'kl' with labels 'soft'"),
        ({"labels": "stored", "loss": "mse-gt"}, "learned with loss 'kl'"),
        ({"labels": "soft", "loss": "mse"}, "to the synset's own labels"),
        ({"labels": "teacher", "loss": "mse"}, "to the synset's own labels"),
        ({"label_smoothing": 0.1, "loss": "mse"}, "label smoothing is n/a .* not of loss 'mse'"),
        ({"labels": "hard", "focal_gamma": 2.0, "loss": "mse"}, "focal loss is n/a .* not of loss 'mse'"),
        ({"labels": "stored", "loss": "kl", "lr_source": "search"}, "not searched"),
        ({"labels": "stored", "loss": "kl", "sequential": True}, "sequential with labels 'stored'"),
        ({"replay": True, "labels": "once"}, "replay with labels 'once' and loss 'ce': .* the synset's own labels"),
        ({"replay": True, "labels": "teacher", "loss": "kl"}, "replay with labels 'teacher' and loss 'kl'"),
        ({"replay": True, "loss": "mse"}, "replay with labels 'own' and loss 'mse'"),
        ({"epoch": 1}, r"unknown protocol setting 'epoch' \(did you mean 'epochs'\?\)"),
    ],
)
def test_refused_settings(settings: dict[str, object], message: str):
    with pytest.raises(UserError, match=message):
        changed(PROTOCOLS["hard-v1"], **settings)


def test_a_protocol_of_ones_own(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nbase = "rded"\nepochs = 12\nlr = 1\nlr_students = [["vgg11", 0.5]]\n')
    mine = protocol(str(path))
    assert (mine.name, mine.epochs, mine.lr, mine.schedule) == ("mine", 12, 1.0, "half-cosine")
    assert mine.rate("vgg11-bn") == 0.5
    assert mine.hash != PROTOCOLS["rded"].hash


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = 3", "name is None"),
        ('name = "../x"', "name is"),
        ('name = "hard-v1"', "give yours another name"),
        ('name = "a"\nbase = "hard"', "unknown protocol 'hard'"),
        ('name = "a"\nepoch = 3', "did you mean 'epochs'"),
        ('name = "a"\nepochs = "many"', "--epochs many: expected int"),
        ('name = "a', "not TOML"),
        ("x" * 70_000, "too large"),
    ],
)
def test_refused_files(text: str, message: str, tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_protocol(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path):
    with pytest.raises(UserError, match="cannot read it"):
        protocol(str(tmp_path / "none.toml"))
