"""Flags from dataclasses (tyro), with every mistake told in one line."""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from ddbench.cli.help import Groups, help_text
from ddbench.registry import suggest
from ddbench.runtime.errors import UserError

T = TypeVar("T")


def parse(
    kind: type[T],
    argv: Sequence[str],
    prog: str,
    description: str,
    examples: str,
    default: T | None = None,
    groups: Groups | None = None,
) -> T:
    """Parse ``argv`` into a dataclass; ``--help`` prints its fields with their docs and ``examples``.

    Args:
        default: an instance whose values replace the class's defaults (a recipe, say).
        groups: heads of the help -> names of the fields under them.

    Raises:
        UserError: unknown flag (with a suggestion), missing or malformed value.
    """
    if "-h" in argv or "--help" in argv:
        print(help_text(kind, prog, description, examples, default, groups))
        raise SystemExit(0)
    flags = set(_flags(kind))
    for token in argv:
        flag = token.split("=")[0].replace("_", "-")
        if re.match(r"--[A-Za-z]", flag) and flag not in flags | {f"--no-{f[2:]}" for f in flags}:
            raise UserError(f"unknown flag {token.split('=')[0]}{suggest(flag, flags)}; see {prog} --help")
    options: dict[str, Any] = {} if default is None else {"default": default}
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured), _RULES:
            parsed: T = tyro.cli(kind, args=list(argv), prog=prog, config=(tyro.conf.OmitArgPrefixes,), **options)
            return parsed
    except SystemExit:
        raise UserError(f"{told(_one_line(captured.getvalue()))}; see {prog} --help") from None


def settings_in(default: T, argv: Sequence[str]) -> T:
    """A dataclass with those of its values that ``argv`` sets, whatever else stands there; read before the full parse.

    Where they are malformed the default comes back: the full parse says why.
    """
    flags = set(_flags(type(default)))
    known = flags | {f"--no-{flag[2:]}" for flag in flags}
    if not known & {token.split("=")[0].replace("_", "-") for token in argv}:
        return default
    own = [token for token in argv if token not in ("-h", "--help")]
    silent = io.StringIO()
    try:
        with contextlib.redirect_stderr(silent), contextlib.redirect_stdout(silent):
            parsed, _ = tyro.cli(type(default), args=own, default=default, return_unknown_args=True)
    except SystemExit:
        return default
    return parsed


NumbersByName = tuple[tuple[str, float], ...]
"""Type of a setting that is typed as ``name=number``, any number of times."""

_RULES = tyro.constructors.ConstructorRegistry()


@_RULES.primitive_rule
def _numbers_by_name(info: Any) -> Any:
    if info.type != NumbersByName:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[NAME=NUMBER [NAME=NUMBER ...]]",
        instance_from_str=options_from_text,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [f"{name}={number}" for name, number in value],
    )


@_RULES.primitive_rule
def _optional(info: Any) -> Any:
    """``T | None`` is typed as ``T``; the word None still gives None."""
    parts = [part for part in get_args(info.type) if part is not type(None)]
    if get_origin(info.type) not in (Union, UnionType) or len(parts) != 1 or type(None) not in get_args(info.type):
        return None
    inner = tyro.constructors.PrimitiveTypeInfo.make(parts[0], info.markers)
    spec = tyro.constructors.ConstructorRegistry.get_primitive_spec(inner)
    if not isinstance(spec, tyro.constructors.PrimitiveConstructorSpec):
        return spec
    return replace(
        spec,
        instance_from_str=lambda texts: None if list(texts) == ["None"] else spec.instance_from_str(texts),
        is_instance=lambda value: value is None or spec.is_instance(value),
        str_from_instance=lambda value: ["None"] if value is None else spec.str_from_instance(value),
    )


def _flags(kind: type[Any]) -> Iterator[str]:
    """Flags of a dataclass; fields that are dataclasses themselves give theirs, without a prefix."""
    types = get_type_hints(kind)
    for item in fields(kind):
        nested = types[item.name]
        if isinstance(nested, type) and is_dataclass(nested):
            yield from _flags(nested)
        else:
            yield f"--{item.name.replace('_', '-')}"


def _one_line(message: str) -> str:
    """The sentence inside tyro's error box: its first part where it is drawn with lines, in ASCII (title first) the
    second."""
    parts: list[list[str]] = [[]]
    for line in re.sub(r"\x1b\[[0-9;]*m", "", message).splitlines():
        row = line.strip(" │")
        if row.startswith(("╭", "╰")) or not row:
            continue
        if re.fullmatch("[-─]{5,}", row):
            parts.append([])
        else:
            parts[-1].append(row)
    filled = [" ".join(part) for part in parts if part]
    if not filled:
        return "wrong arguments"
    return filled[1] if "╭" not in message and len(filled) > 1 else filled[0]


_TOLD: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (
        r"Error parsing (\S+): invalid literal for int.*: '(.*)'",
        lambda m: f"{m[1]} {m[2]}: expected a whole number",
    ),
    (r"Error parsing (\S+): could not convert .* float: '(.*)'", lambda m: f"{m[1]} {m[2]}: expected a number"),
    (
        r"Error parsing (\S+): Could not find valid parse for arguments: \['(.*)'\]",
        lambda m: f"{m[1]} {m[2].replace(chr(39) + ', ' + chr(39), ' ')}: expected numbers with spaces between them",
    ),
    (r"Error parsing (\S+): (.*)", lambda m: f"{m[1]}: {m[2]}"),
    (r"Missing value for argument '(\S+)'\..*", lambda m: f"{m[1]}: a value is missing after it"),
    (r"Unrecognized options: (.*)", lambda m: f"{m[1]}: not expected here, it is no value of a flag and no name"),
    (
        r"invalid choice '(.*)' for argument '(.*)'\. Expected one of \((.*?),?\)\.",
        lambda m: (
            f"{m[2]} {m[1]!r} is none of {m[3].replace(chr(39), '')}" + suggest(m[1], m[3].replace("'", "").split(", "))
        ),
    ),
)
"""What tyro says -> the same with the flag first, its value and what was expected."""


def told(message: str) -> str:
    """A message of tyro's in the words of all others here; one that is not known as it is."""
    for pattern, words in _TOLD:
        if found := re.fullmatch(pattern, message):
            return words(found)
    return message


def options_from_text(texts: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """``("eps=1e-8",)`` as ``(("eps", 1e-8),)``.

    Raises:
        UserError: not name=number, or NaN or infinity, which no record holds.
    """
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise UserError(f"--options {text!r}: expected name=number, e.g. eps=1e-8") from None
        if not math.isfinite(found[name]):
            raise UserError(f"--options {text!r}: expected a finite number")
    return tuple(sorted(found.items()))


def peek(argv: Sequence[str], flag: str) -> str | None:
    """The last value of ``--flag VALUE`` or ``--flag=VALUE`` in ``argv``, read before the full parse.

    Args:
        flag: with dashes; the full parse takes underscores for them, and so does this.
    """
    found = None
    for index, token in enumerate(argv):
        name, equals, value = token.partition("=")
        if name.replace("_", "-") != flag:
            continue
        if equals:
            found = value
        elif index + 1 < len(argv):
            found = argv[index + 1]
    return found
