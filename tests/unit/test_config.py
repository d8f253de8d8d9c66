"""Settings said once: ranges, words and types of a dataclass, checked and read from tables."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from ddbench.config import Setting, apply_config, check_config, check_config_class, recorded_config, setting
from ddbench.diffusion.recipe import DiffusionRecipe
from ddbench.experts.recipe import ExpertRecipe
from ddbench.runtime.errors import UserError
from ddbench.teachers.recipe import TeacherRecipe


@dataclass(frozen=True, kw_only=True)
class Made:
    """Settings of every kind."""

    steps: int = setting(3, at_least=1)
    rate_up: float = setting(0.1, above=0)
    share: float = setting(0.5, at_least=0, below=1)
    weight: float = setting(-1.0, also=(-1,), at_least=0)
    crop: float = setting(1.0, above=0, at_most=1, expected="a share of the image")
    drops: tuple[float, ...] = setting((0.5,), above=0, at_most=1)
    pairs: tuple[tuple[str, float], ...] = ()
    limit: float | None = setting(None, above=0)
    word: Literal["one", "two"] = "one"
    name: str = setting("red", choices=("red", "green"))
    free: float = math.inf
    flip: bool = False
    later: float = setting(0.0, at_least=0, omit_default=True)
    of_two: int = setting(10, at_least=1, of=("word", "two"))
    unless_green: int = setting(10, unless=("name", "green"))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "least": ({"steps": 0}, "--steps 0: expected at least 1"),
    "above": ({"rate_up": -3.0}, "--rate-up -3.0: expected a number above 0"),
    "end": ({"share": 1.0}, "--share 1.0: expected a number from 0 to below 1"),
    "also": ({"weight": -2.0}, "--weight -2.0: expected -1, or a number of at least 0"),
    "words": ({"crop": 0.0}, "--crop 0.0: expected a share of the image"),
    "nan": ({"share": math.nan}, "--share nan: expected"),
    "infinite": ({"rate_up": math.inf}, "--rate-up inf: expected"),
    "item": ({"drops": (0.5, 2.0)}, "--drops 0.5 2.0: expected a number above 0 and up to 1"),
    "optional": ({"limit": 0.0}, "--limit 0.0: expected a number above 0"),
    "literal": ({"word": "tow"}, "--word 'tow' is none of one, two (did you mean 'two'?)"),
    "choice": ({"name": "gren"}, "--name 'gren' is none of red, green (did you mean 'green'?)"),
    "type": ({"steps": 2.5}, "--steps 2.5: expected int"),
    "digits": ({"steps": 10**400}, "--steps 1" + "0" * 79 + ": expected a whole number of up to 18 digits"),
    "truth": ({"steps": True}, "--steps True: expected int"),
    "text": ({"flip": "yes"}, "--flip yes: expected bool"),
    "list": ({"drops": 0.5}, "--drops 0.5: expected a list"),
    "pair": ({"pairs": (("a",),)}, "--pairs ('a',): expected 2 values"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refused(case: tuple[dict[str, Any], str]):
    """A value is told alike whether it is in a config already or comes from a table."""
    values, message = case
    for attempt in (lambda: check_config(Made(**values)), lambda: apply_config(Made, values, "")):
        with pytest.raises(UserError) as caught:
            attempt()
        assert str(caught.value).startswith(message)
    with pytest.raises(UserError, match=r"^here: \w+ is .*, expected ") as caught:
        apply_config(Made, values, "here")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message", "told"),
    [
        ({"of_two": 5}, "--of-two 5: a setting of --word two, not of one", "here: of_two 5: a setting of word two"),
        (
            {"name": "green", "unless_green": 5},
            "--unless-green 5: it has no effect with --name green",
            "here: unless_green 5: it has no effect with name green",
        ),
        ({"of_two": 0}, "--of-two 0: expected at least 1", "here: of_two is 0, expected at least 1"),
    ],
    ids=["of", "unless", "range first"],
)
def test_settings_without_effect_are_refused(values: dict[str, Any], message: str, told: str):
    for where, words in (("", message), ("here", told)):
        with pytest.raises(UserError) as caught:
            check_config(Made(**values), where)
        assert str(caught.value).startswith(words)


def test_what_is_possible_passes():
    check_config(Made())
    check_config(Made(of_two=5, word="two", unless_green=5))
    check_config(Made(of_two=10, unless_green=10, name="green"))
    check_config(Made(steps=1, share=0.0, weight=0.0, crop=1.0, drops=(), limit=2.0, word="two", rate_up=1e-300))


@pytest.mark.parametrize(
    ("said", "whole", "words"),
    [
        (Setting(at_least=1), True, "at least 1"),
        (Setting(at_least=0), False, "a number of at least 0"),
        (Setting(above=0), False, "a number above 0"),
        (Setting(above=0, below=1), False, "a number above 0 and below 1"),
        (Setting(above=0, at_most=2.5), False, "a number above 0 and up to 2.5"),
        (Setting(at_least=0, at_most=1), False, "a number from 0 to 1"),
        (Setting(at_least=2, at_most=8), True, "from 2 to 8"),
        (Setting(at_most=3), False, "a number up to 3"),
        (Setting(below=3), True, "below 3"),
    ],
)
def test_words_of_a_range(said: Setting, whole: bool, words: str):
    assert said.words(whole) == words


def test_apply_config():
    table = {"rate_up": 2, "drops": [1, 0.25], "pairs": [["a", 1]], "limit": 3, "word": "two"}
    made = apply_config(Made, table, "here")
    assert made == Made(rate_up=2.0, drops=(1.0, 0.25), pairs=(("a", 1.0),), limit=3.0, word="two")
    numbers = (made.rate_up, *made.drops, made.pairs[0][1], made.limit)
    assert [type(one) for one in numbers] == [float] * 5, "whole numbers are recorded as the floats that they mean"
    assert apply_config(Made, {"steps": 7}, "", base=made).drops == (1.0, 0.25)
    for values, message in (
        ({"step": 1}, r"^here: unknown setting 'step' \(did you mean 'steps'\?\)"),
        ([1], "^here: the settings are not a table"),
        ({"rate_up": 2**60}, "^here: rate_up is 1152921504606846976, expected float"),
    ):
        with pytest.raises(UserError, match=message):
            apply_config(Made, values, "here")
    with pytest.raises(UserError, match=r"^here: thing 'steps' is 0, expected at least 1"):
        apply_config(Made, {"steps": 0}, "here", noun="thing")


def test_late_settings_are_recorded_where_they_are_altered():
    assert "later" not in recorded_config(Made())
    assert recorded_config(Made(later=0.5))["later"] == 0.5
    assert recorded_config(Made())["share"] == 0.5


class Plain:
    pass


@dataclass
class Mutable:
    steps: int = 3


@dataclass(frozen=True)
class Lacking:
    steps: int


@dataclass(frozen=True)
class Orphan:
    steps: int = setting(3, of=("loops", True))


@dataclass(frozen=True, kw_only=True)
class Unknown:
    steps: NoSuchType = 3  # type: ignore[name-defined]  # noqa: F821


@dataclass(frozen=True, kw_only=True)
class Fresh:
    sizes: list[int] = field(default_factory=list)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (None, "config None: expected a class with @dataclass"),
        (Made(), "expected a class with @dataclass"),
        (Plain, "config Plain: expected a class with @dataclass"),
        (Mutable, "config Mutable can be changed: write @dataclass"),
        (Lacking, "setting 'steps' of config Lacking has no default"),
        (Orphan, "setting 'steps' of config Orphan is one of 'loops', which it has not"),
        (Unknown, "the types of config Unknown cannot be read: .*NoSuchType"),
    ],
)
def test_classes_that_hold_no_settings(kind: Any, message: str):
    with pytest.raises(UserError, match=f"^here: .*{message}") as caught:
        check_config_class(kind, "here", defaults=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [Made, Fresh, ExpertRecipe, TeacherRecipe, DiffusionRecipe])
def test_classes_that_do(kind: type[Any]):
    check_config_class(kind, "here", defaults=True)


STUDENT = "convnet-d1-w4-in"


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("ba39e64e435c", ExpertRecipe(kind="gsam", rho=0.02).key(STUDENT, "f")),
        ("787c3f0eaf9b", ExpertRecipe(kind="smooth", drop=0.5, options=(("eps", 1e-8),)).key(STUDENT, "f")),
        ("11a2b953227c", TeacherRecipe().key(STUDENT, "f")),
        ("93670091ae5f", TeacherRecipe(epochs=2, options=(("eps", 1e-6),)).key(STUDENT, "f")),
        ("da2588e6fb16", TeacherRecipe(penalty="curvature").key(STUDENT, "f")),
        ("4b83af36d8ba", TeacherRecipe(penalty="loss-gap", penalty_step=2.0).key(STUDENT, "f")),
        ("466462f062d9", DiffusionRecipe().key("f")),
        ("f9a371984a18", DiffusionRecipe(widths=(8, 16), flip=False).key("f")),
    ],
)
def test_keys_of_recipes_stay(key: str, found: str):
    """Experts, teachers and diffusion models that were made before are found again."""
    assert found == key
