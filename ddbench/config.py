"""Settings of a run's parts, said once in a dataclass: default, range, possible values; the words stand below a field.

The command line, the readers of TOML and JSON and the checks before a run all take them from there. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass, replace
from functools import wraps
from inspect import signature
from os import PathLike
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

from ddbench.registry import suggest
from ddbench.runtime.errors import UserError
from ddbench.runtime.numbers import MAX_DIGITS

P = ParamSpec("P")
R = TypeVar("R")

_SETTING = "setting"
_WHOLE = 2**53
"""Integers from here on are not all float64 numbers."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a setting can be, beside its type; see :func:`setting`."""

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    also: tuple[float, ...] = ()
    choices: tuple[str, ...] = ()
    expected: str = ""
    omit_default: bool = False
    of: tuple[str, Any] | None = None
    unless: tuple[str, Any] | None = None

    @property
    def bounded(self) -> bool:
        """Whether its numbers have a range."""
        return any(end is not None for end in (self.above, self.at_least, self.below, self.at_most))

    def holds(self, number: float) -> bool:
        """Whether a number is in the range; NaN and infinities are in none."""
        if not self.bounded or number in self.also:
            return True
        return (
            (isinstance(number, int) or math.isfinite(number))
            and (self.above is None or number > self.above)
            and (self.at_least is None or number >= self.at_least)
            and (self.below is None or number < self.below)
            and (self.at_most is None or number <= self.at_most)
        )

    def words(self, whole: bool) -> str:
        """The range as text, e.g. ``a number from 0 to below 1``; of whole numbers, e.g. ``at least 1``."""
        if self.expected:
            return self.expected
        low = high = ""
        if self.at_most is not None or self.below is not None:
            high = f"below {self.below:g}" if self.at_most is None else f"{self.at_most:g}"
        if self.at_least is not None:
            low = f"from {self.at_least:g} to" if high else f"at least {self.at_least:g}"
            low = low if whole or high else f"of {low}"
        elif self.above is not None:
            low = f"above {self.above:g}" + (" and" if high else "")
        if high and self.at_least is None and self.at_most is not None:
            high = f"up to {high}"
        text = " ".join(part for part in (low, high) if part)
        text = text if whole else f"a number {text}"
        return ", or ".join([*(f"{one:g}" for one in self.also), text])


_FREE = Setting()


def setting(
    default: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    also: tuple[float, ...] = (),
    choices: tuple[str, ...] = (),
    expected: str = "",
    omit_default: bool = False,
    of: tuple[str, Any] | None = None,
    unless: tuple[str, Any] | None = None,
) -> Any:
    """A field of a config dataclass. Its type is the annotation; its words are the string below it.

    Args:
        above, at_least, below, at_most: ends of the range of its number, or of every number in it; with any of them,
            NaN and infinities are refused.
        also: numbers outside the range that are possible too.
        choices: possible words, where no ``Literal`` can list them.
        expected: what is possible, for messages (after "expected"); default: told from the range.
        omit_default: at its default it is not recorded: for a setting that came after products were published, so that
            they keep their bytes.
        of: (another setting, its value) without which this one has no effect: then it must be at its default.
        unless: (another setting, its value) with which this one has no effect.
    """
    metadata = Setting(
        above=above,
        at_least=at_least,
        below=below,
        at_most=at_most,
        also=also,
        choices=choices,
        expected=expected,
        omit_default=omit_default,
        of=of,
        unless=unless,
    )
    return field(default=default, metadata={_SETTING: metadata})


def setting_of(item: Field[Any]) -> Setting:
    """What :func:`setting` said about a field; without any range for a plain one."""
    found = item.metadata.get(_SETTING, _FREE)
    assert isinstance(found, Setting)
    return found


_TYPES: WeakKeyDictionary[type, Mapping[str, Any]] = WeakKeyDictionary()
"""The recipes of a plan ask for those of the same few classes thousands of times."""


def types_of(config_class: type[Any]) -> Mapping[str, Any]:
    """Types of the fields of a config dataclass, annotations that are strings resolved."""
    if config_class not in _TYPES:
        _TYPES[config_class] = MappingProxyType(get_type_hints(config_class))
    return _TYPES[config_class]


def recorded_config(config: Any) -> dict[str, Any]:
    """A config as it is recorded."""
    silent = {item.name for item in fields(config) if setting_of(item).omit_default and _is_default(config, item)}
    return {name: value for name, value in asdict(config).items() if name not in silent}


def _is_default(config: Any, item: Field[Any]) -> bool:
    return bool(getattr(config, item.name) == item.default)


def check_config(config: Any, where: str = "") -> None:
    """Refuse values of another type, unknown words, numbers out of range, and settings that have no effect.

    Args:
        where: what the values are from; empty: the command line, and messages name flags.

    Raises:
        UserError: names the setting, its value and what is possible.
    """
    types = types_of(type(config))
    for item in fields(config):
        _checked(item, getattr(config, item.name), types[item.name], where, "")
    for item in fields(config):
        if not _is_default(config, item):
            _check_effect(config, item, where)


class Here(str):
    """Why a setting has no effect at this IPC or with this student: the same flags may serve others of a series."""


def refuse_idle(config: Any, idle: Mapping[str, str]) -> list[str]:
    """Refuse settings that have no effect for a reason (after "it has no effect") that no single one says.

    Returns:
        What is to be told of those that are not refused, their reason being a :class:`Here`.

    Raises:
        UserError: the first of the others that is not at its default.
    """
    told = []
    for item in fields(config):
        if item.name in idle and not _is_default(config, item):
            why = idle[item.name]
            text = f"--{item.name.replace('_', '-')} {getattr(config, item.name)}: it has no effect {why}"
            if not isinstance(why, Here):
                raise UserError(text)
            told.append(text)
    return told


def _check_effect(config: Any, item: Field[Any], where: str) -> None:
    """Refuse a setting that another one leaves without effect; the :class:`UserError` names both."""

    def named(name: str) -> str:
        return name if where else f"--{name.replace('_', '-')}"

    for pair in _broken(config, item):
        owner, now = named(pair[0]), getattr(config, pair[0])
        other = f"a setting of {owner} {pair[1]}, not of {now}"
        text = other if pair == setting_of(item).of else f"it has no effect with {owner} {now}"
        raise UserError(f"{f'{where}: ' if where else ''}{named(item.name)} {getattr(config, item.name)}: {text}")


def _broken(config: Any, item: Field[Any]) -> Iterator[tuple[str, Any]]:
    """What a setting's ``of`` and ``unless`` say and other settings do not keep."""
    said = setting_of(item)
    for pair, wanted in ((said.of, True), (said.unless, False)):
        if pair is not None and (getattr(config, pair[0]) == pair[1]) != wanted:
            yield pair


def without_idle(config: Any, recipe: Any) -> Any:
    """A config with defaults for what is a recipe's and has no effect any more by ``of`` or ``unless``."""
    idle = {}
    for item in fields(config):
        kept = getattr(config, item.name) == getattr(recipe, item.name)
        if kept and not _is_default(config, item) and any(_broken(config, item)) and not any(_broken(recipe, item)):
            idle[item.name] = item.default
    return without_idle(replace(config, **idle), recipe) if idle else config


def apply_config(config_class: type[Any], values: Any, where: str, *, base: Any = None, noun: str = "") -> Any:
    """A config with values from a recipe, a file or flags.

    Args:
        config_class: its dataclass; a field without a default is no setting.
        values: setting -> value as TOML or JSON give it (a list for a tuple, a whole number for a float).
        where: what they are from; empty: the command line, and messages name flags.
        base: the config that they change; default: the class's defaults.
        noun: what a setting is called in messages, where ``setting`` alone is not clear.

    Raises:
        UserError: no table, an unknown setting (with a suggestion), a value of another type or out of range.
    """
    prefix = f"{where}: " if where else ""
    if not isinstance(values, dict):
        raise UserError(f"{prefix}the settings are not a table")
    check_config_class(config_class, where)
    known = {item.name: item for item in fields(config_class) if not _required(item)}
    types = types_of(config_class)
    clean = {}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{prefix}unknown {noun or 'setting'} {repr(name)[:80]}{suggest(str(name), known)}")
        clean[name] = _checked(known[name], value, types[name], where, noun)
    return config_class(**clean) if base is None else replace(base, **clean)


def check_config_class(config_class: Any, where: str, *, defaults: bool = False) -> None:
    """Refuse what cannot hold settings.

    Args:
        where: whose class it is.
        defaults: every field must have a default.

    Raises:
        UserError: it is no frozen dataclass, a field has no default, or a type cannot be resolved.
    """
    prefix = f"{where}: " if where else ""
    name = getattr(config_class, "__name__", repr(config_class)[:80])
    if not isinstance(config_class, type) or not is_dataclass(config_class):
        raise UserError(f"{prefix}config {name}: expected a class with @dataclass(frozen=True, kw_only=True)")
    if not config_class.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise UserError(f"{prefix}config {name} can be changed: write @dataclass(frozen=True, kw_only=True) above it")
    for item in fields(config_class):
        if defaults and _required(item):
            raise UserError(f"{prefix}setting {item.name!r} of config {name} has no default: give it one")
        for other, _ in filter(None, (setting_of(item).of, setting_of(item).unless)):
            if other not in {one.name for one in fields(config_class)}:
                raise UserError(f"{prefix}setting {item.name!r} of config {name} is one of {other!r}, which it has not")
    try:
        types_of(config_class)
    except Exception as error:  # whatever stands in somebody's annotations is evaluated
        raise UserError(f"{prefix}the types of config {name} cannot be read: {error}") from None


def _required(item: Field[Any]) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


class _MisfitError(Exception):
    """Says what was expected of a value, or which words there are."""

    def __init__(self, expected: str, choices: tuple[str, ...] = ()) -> None:
        super().__init__(expected)
        self.choices = choices


def _checked(item: Field[Any], value: Any, kind: Any, where: str, noun: str) -> Any:
    """A value in its own type.

    Raises:
        UserError: another type, an unknown word, a number out of range.
    """
    said = setting_of(item)
    try:
        fitted = _fitted(value, kind)
        if said.choices and fitted not in said.choices:
            raise _MisfitError("", said.choices)
        if not all(said.holds(number) for number in _numbers(fitted)):
            raise _MisfitError(said.words(all(isinstance(one, int) for one in _numbers(fitted))))
    except _MisfitError as misfit:
        text, choices = str(misfit), misfit.choices
        if not choices and get_origin(kind) is tuple and said.expected:
            text = said.expected
    else:
        return fitted
    listed, meant = ", ".join(choices), suggest(str(value), choices)
    if where:
        named = f"{noun} {item.name!r}" if noun else item.name
        text = f"one of {listed}{meant}" if choices else text
        raise UserError(f"{where}: {named} is {repr(value)[:80]}, expected {text}")
    flag = f"--{item.name.replace('_', '-')}"
    if choices:
        raise UserError(f"{flag} {repr(value)[:80]} is none of {listed}{meant}")
    shown = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    raise UserError(f"{flag} {shown[:80]}: expected {text}")


def _numbers(value: Any) -> Iterator[float]:
    """The numbers in a value."""
    if isinstance(value, tuple):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _fitted(value: Any, kind: Any) -> Any:
    """A value as its annotation has it: lists become tuples, whole numbers become floats where floats are meant.

    Raises:
        _MisfitError: it is of another type, or none of the words of a ``Literal``.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0:  # of a caller in Python
        value = value.item()
    if origin is Literal:
        if type(value) not in {type(one) for one in parts}:
            raise _MisfitError(" or ".join(sorted({type(one).__name__ for one in parts})))
        if value not in parts:
            raise _MisfitError("", tuple(map(str, parts)))
        return value
    if origin in (Union, UnionType):
        if value is None and type(None) in parts:
            return None
        kinds = [one for one in parts if one is not type(None)]
        if isinstance(value, str) and str in kinds:
            return value
        expected: dict[str, None] = {}
        for one in kinds:
            try:
                return _fitted(value, one)
            except _MisfitError as misfit:
                if len(kinds) == 1:
                    raise
                expected[f"one of {', '.join(misfit.choices)}" if misfit.choices else str(misfit)] = None
        expected.pop("str" if "a path" in expected else "", None)
        raise _MisfitError(" or ".join(expected))
    if origin is tuple:
        return _fitted_items(value, parts)
    if kind is float and type(value) is int and abs(value) < _WHOLE:
        return float(value)
    if kind is int and type(value) is int and abs(value) >= 10**MAX_DIGITS:
        raise _MisfitError(f"a whole number of up to {MAX_DIGITS} digits")
    if kind is Path:
        if not isinstance(value, str | PathLike):
            raise _MisfitError("a path")
        return Path(value)
    if origin in (Sequence, Mapping):
        return _fitted_collection(value, origin, parts)
    if kind in (bool, int, float, str) and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise _MisfitError(kind.__name__)
    return value


def _fitted_items(value: Any, parts: tuple[Any, ...]) -> tuple[Any, ...]:
    """A list as the tuple that ``tuple[parts]`` means."""
    wanted = "a list" if parts[-1] is Ellipsis else f"{len(parts)} values"
    if not isinstance(value, list | tuple) or (parts[-1] is not Ellipsis and len(value) != len(parts)):
        raise _MisfitError(wanted)
    kinds = [parts[0]] * len(value) if parts[-1] is Ellipsis else parts
    return tuple(_fitted(one, kind) for one, kind in zip(value, kinds, strict=True))


def _fitted_collection(value: Any, kind: Any, parts: tuple[Any, ...]) -> Any:
    """A list or a table whose items are of the types meant; a text is no list of letters.

    Raises:
        _MisfitError: as :func:`_fitted`.
    """
    if kind is Mapping:
        if not isinstance(value, Mapping):
            raise _MisfitError("a dict")
        with _inside("a dict of"):
            return {_fitted(name, parts[0]): _fitted(one, parts[1]) for name, one in value.items()}
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise _MisfitError("a list")
    with _inside("a list of"):
        return [_fitted(one, parts[0]) for one in value]


@contextmanager
def _inside(words: str) -> Iterator[None]:
    try:
        yield
    except _MisfitError as misfit:
        raise _MisfitError(f"{words} {misfit}", misfit.choices) from None


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """A public function that refuses arguments of another type than its annotations say, before it does anything.

    Its own ``settings`` (``**``) and annotations that are for type checkers only are left to it.
    """
    known = signature(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = known.bind(*args, **kwargs)
        except TypeError:  # too many, or too few: Python's words
            return function(*args, **kwargs)
        for name, value in bound.arguments.items():
            parameter = known.parameters[name]
            if parameter.kind is parameter.VAR_KEYWORD or name == "self":
                continue
            try:  # one by one: get_type_hints gives none where a single name is for type checkers only
                kind = eval(parameter.annotation, function.__globals__)
            except NameError:
                continue
            try:
                bound.arguments[name] = _fitted(value, kind)
                if isinstance(kind, type) and not isinstance(bound.arguments[name], kind):
                    raise _MisfitError(f"a {kind.__name__}")
            except _MisfitError as misfit:
                text = f"one of {', '.join(misfit.choices)}" if misfit.choices else str(misfit)
                where = f"{function.__name__}: {name}"
                raise UserError(f"{where} is {repr(value)[:80]}, expected {text}") from None
        return function(*bound.args, **bound.kwargs)

    return call
