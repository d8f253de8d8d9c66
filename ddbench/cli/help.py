"""What ``--help`` prints: usage, description, examples, then the flags of a dataclass in groups. Imports no torch."""

from __future__ import annotations

import ast
import inspect
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from ddbench.runtime.common import Common, Loading

WORDS: dict[Any, str] = {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH"}
"""How a type is called."""

NARROWEST, WIDEST, COLUMN = 60, 120, 26
"""Least and greatest width of the text, and where the words of a flag begin."""

FLAGS, NEEDS, LOADS = "flags", "what it needs", "where the data are"
COMPUTES = f"{LOADS}, and how it computes"
"""Heads over flags that no group names: of the verb itself, of what a method needs, of every verb that reads data, and
of those that compute."""

Groups = Mapping[str, Sequence[str]]
"""Head -> names of the fields under it."""


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A field as the command line knows it.

    Attributes:
        name: of the field.
        said: how it is typed, ``--lr NUMBER``.
        words: what stands below the field.
        default: what holds without it; None where it must be given, or where the words say it.
        group: class of the dataclass it is in, where that is nested in another one.
    """

    name: str
    said: str
    words: str
    default: str | None
    group: str
    positional: bool
    required: bool


def help_text(
    kind: type[Any], prog: str, description: str, examples: str, default: Any = None, groups: Groups | None = None
) -> str:
    """The whole help.

    Args:
        default: an instance whose values are the defaults.
        groups: heads for the flags of ``kind`` itself; the others, and those of dataclasses in it, have their own.
    """
    width = min(WIDEST, max(NARROWEST, shutil.get_terminal_size().columns))
    flags = list(flags_of(kind, default))
    places = [flag for flag in flags if flag.positional]
    usage = " ".join([prog, *(flag.said if flag.required else f"[{flag.said}]" for flag in places), "[flags]"])
    text = f"usage: {usage}\n\n{description.strip()}\n\nexamples:\n{examples.rstrip()}\n"
    heads = {name: head for head, names in (groups or {}).items() for name in names}
    blocks: dict[str, list[Flag]] = {"what is given": places, **{head: [] for head in groups or {}}}
    for flag in flags:
        if not flag.positional:
            blocks.setdefault(heads.get(flag.name, flag.group), []).append(flag)
    for head, members in sorted(blocks.items(), key=lambda block: block[0] in (LOADS, COMPUTES)):
        text += f"\n{head}:\n" + "".join(_entry(flag, width) for flag in members) if members else ""
    return text + f"\n  {'-h, --help':<{COLUMN - 2}}this text"


def _entry(flag: Flag, width: int) -> str:
    words = flag.words if flag.default is None else f"{flag.words} (default: {flag.default})"
    wrapped = textwrap.wrap(words, width - COLUMN) or [""]
    first = f"  {flag.said}"
    lines = [f"{first:<{COLUMN}}{wrapped[0]}"] if len(first) < COLUMN - 1 else [first, " " * COLUMN + wrapped[0]]
    return "".join(f"{line.rstrip()}\n" for line in [*lines, *(" " * COLUMN + line for line in wrapped[1:])])


def flags_of(kind: type[Any], default: Any = None, group: str = FLAGS) -> Iterator[Flag]:
    """The fields of a dataclass, and of dataclasses in it, as the command line knows them."""
    types, words = get_type_hints(kind, include_extras=True), field_words(kind)
    for item in fields(kind):
        given = types[item.name]
        plain, marks = (get_args(given)[0], get_args(given)[1:]) if get_origin(given) is Annotated else (given, ())
        value = _default(item) if default is None else getattr(default, item.name)
        if isinstance(plain, type) and is_dataclass(plain):
            yield from flags_of(plain, None if value is MISSING else value, _head(plain))
            continue
        positional = any(mark is get_args(tyro.conf.Positional[int])[1] for mark in marks)
        name = item.name.replace("_", "-")
        if positional:
            said = item.name.upper()
        else:
            said = f"--{name}" if plain is bool and value is not True else f"--{name} {_word(plain)}"
            said = f"--no-{name}" if plain is bool and value is True else said
        yield Flag(
            name=item.name,
            said=said,
            words=" ".join(words.get(item.name, "").split()),
            default=None if value is MISSING or plain is bool else _shown(value),
            group=_usual(kind) if issubclass(kind, Loading) and item.name in _USUAL else group,
            positional=positional,
            required=value is MISSING,
        )


_USUAL = frozenset(item.name for item in fields(Common))


def _usual(kind: type[Loading]) -> str:
    return COMPUTES if issubclass(kind, Common) else LOADS


def _head(kind: type[Any]) -> str:
    """The head over the flags of a dataclass that is nested in another one: the first sentence of its docstring."""
    if issubclass(kind, Loading):
        return FLAGS
    text = kind.__doc__ or ""
    if text.startswith(f"{kind.__name__}("):  # the signature, which a dataclass gets that has no docstring of its own
        text = ""
    line = text.strip().partition("\n")[0].rstrip(".:")
    return NEEDS if ":class:" in line else line or kind.__name__


def _default(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _shown(value: Any) -> str | None:
    if value is None or value in ((), ""):
        return None
    if isinstance(value, tuple):
        return " ".join(str(part) for part in value)
    return str(value)


def _word(kind: Any) -> str:
    """A type in a word: ``INT``, ``a|b``, ``PATH ...``."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return "|".join(dict.fromkeys(_word(part) for part in parts if part is not type(None)))
    if origin is Literal:
        return "|".join(str(part) for part in parts if part is not None)
    if origin is tuple:
        return f"{_word(parts[0])} ..." if parts[1:] == (...,) else " ".join(map(_word, parts))
    return WORDS.get(kind, "VALUE")


def field_words(kind: type[Any]) -> dict[str, str]:
    """The string below each field of a dataclass and its parents, as it stands in the source."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if not is_dataclass(one) or "__annotations__" not in vars(one):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(one)))
        except (OSError, TypeError, SyntaxError):  # made at run time, or without source: its flags have no words
            continue
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for statement, below in pairwise(body):
            match statement, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = text
    return found
