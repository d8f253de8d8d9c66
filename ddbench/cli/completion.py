"""``ddbench completion SHELL``: a script by which a shell completes verbs, flags, and the values that are names.

The script is text that knows everything: completing starts no Python. Printing it takes torch for the flags of methods,
and leaves those out where there is none.
"""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import tyro

from ddbench.cli.help import Flag, flags_of
from ddbench.cli.listing import TABLES
from ddbench.cli.main import VERBS
from ddbench.cli.parse import parse
from ddbench.cli.plan import VERBS as PLANNED
from ddbench.distillation.start import choose
from ddbench.runtime.errors import UserError
from ddbench.tasks import TASKS, task_class

ARGS: dict[str, str] = {
    "demo": "demo:Args",
    "list": "listing:Args",
    "info": "info:Args",
    "data check": "data:CheckArgs",
    "buffer": "buffer:Args",
    "buffer verify": "buffer:StoreArgs",
    "buffer info": "buffer:StoreArgs",
    "buffer import": "buffer:ImportArgs",
    "teacher": "teacher:Args",
    "teacher info": "teacher:InfoArgs",
    "teacher join": "teacher:JoinArgs",
    "diffusion train": "diffusion:TrainArgs",
    "diffusion info": "diffusion:InfoArgs",
    "diffusion sample": "diffusion:SampleArgs",
    "distill": "distill:RunArgs",
    "evaluate": "evaluate:Args",
    "task": "task:Args",
    "relabel": "relabel:Args",
    "scores": "scores:Args",
    "submit": "submit:SubmitArgs",
    "reproduce": "reproduce:Args",
    "plan": "plan:Args",
    "slurm": "slurm:Args",
    "leaderboard build": "leaderboard:BuildArgs",
    "leaderboard show": "leaderboard:ShowArgs",
    "leaderboard export": "leaderboard_export:ExportArgs",
    "leaderboard verify": "leaderboard_verify:VerifyArgs",
    "leaderboard truth": "leaderboard_truth:Args",
    "leaderboard check": "leaderboard_verify:CheckArgs",
    "import": "import_:Args",
    "export": "export:Args",
    "push": "push:Args",
    "pull": "pull:Args",
    "doctor": "doctor:Args",
    "completion": "completion:Args",
}
"""Verb, or verb and sub-verb -> the dataclass of its flags, below ``ddbench.cli``."""

NAMES = {"method": "methods", "dataset": "datasets", "student": "students", "students": "students"}
NAMES |= {"protocol": "protocols"}
"""Flag -> the table of ``ddbench list`` that its values are in."""

LISTS = ("--students", "--protocol")
"""Flags whose names may be joined by commas (a protocol, by ``evaluate``)."""

NO_RECIPES = ("auto", "none")
"""What ``--recipe`` of ``distill`` takes beside the recipes of its method."""


@dataclass(frozen=True, kw_only=True)
class Args:
    """Print a script by which a shell completes verbs, flags and names; flags of a method once --method names it (where
    torch is installed), those of a task after its name. Methods and datasets of your own: print it again."""

    shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]]
    """bash, zsh or fish."""


EXAMPLES = """  ddbench completion bash >> ~/.bashrc
  ddbench completion zsh >> ~/.zshrc
  ddbench completion fish > ~/.config/fish/completions/ddbench.fish"""


@dataclass(frozen=True, kw_only=True)
class Option:
    """A flag for a shell.

    Attributes:
        name: with its dashes.
        takes: whether a value follows it.
        values: the names that it can be; empty: files, or what the user knows.
        words: what it means, in a line.
    """

    name: str
    takes: bool
    values: tuple[str, ...]
    words: str


def main(argv: list[str]) -> None:
    """Run the verb."""
    args = parse(Args, argv, "ddbench completion", str(Args.__doc__), EXAMPLES)
    print(SCRIPTS[args.shell](), end="")


@cache
def names(table: str) -> tuple[str, ...]:
    """The names of a table of ``ddbench list`` that can be typed as they stand (no forms, no groups)."""
    return tuple(name for name in TABLES[table]() if re.fullmatch(r"[a-z0-9][\w./-]*", name))


def options(verb: str) -> list[Option]:
    """The flags of a verb, or of a verb and its sub-verb."""
    module, _, name = ARGS[verb].partition(":")
    kind = getattr(importlib.import_module(f"ddbench.cli.{module}"), name)
    found = [_option(flag) for flag in flags_of(kind) if not flag.positional]
    if verb in ("buffer", "distill"):
        recipes = names("recipes") if verb == "buffer" else NO_RECIPES
        found = [replace(one, values=recipes) if one.name == "--recipe" else one for one in found]
    return [*found, Option(name="--help", takes=False, values=(), words="flags and examples")]


def _option(flag: Flag) -> Option:
    said, _, word = flag.said.partition(" ")
    choices = tuple(word.split("|")) if re.fullmatch(r"[a-z][a-z0-9|]*", word) else ()
    values = names(NAMES[flag.name]) if flag.name in NAMES else choices
    return Option(name=said, takes=bool(word), values=values, words=re.split(r"[;:.(]\s", flag.words)[0])


@cache
def chosen() -> dict[tuple[str, str], list[Option]]:
    """(verb, method or task) -> its own flags, and of a method its recipes; without torch none that take it."""
    found: dict[tuple[str, str], list[Option]] = {}
    for name in TASKS:
        with suppress(ImportError, UserError):
            found["task", name] = _own("task", [task_class(name).config_class])
    for name in names("methods"):
        with suppress(ImportError, UserError):  # no torch, or somebody's method that does not load
            method = choose(name, recipe="none")
            recipes = tuple(one.partition("/")[2] for one in names("recipes") if one.startswith(f"{name}/"))
            known = Option(name="--recipe", takes=True, values=(*NO_RECIPES, *recipes), words="recipe of the method")
            kinds = [type(method.config), *map(type, method.flags(method.config))]
            found["distill", name] = [*_own("distill", kinds), known]
    return found


def _own(verb: str, kinds: Iterable[type[Any]]) -> list[Option]:
    """Flags of some dataclasses that the verb does not have."""
    shared = {one.name for one in options(verb)}
    return [one for kind in kinds for one in map(_option, flags_of(kind)) if one.name not in shared]


def places(verb: str) -> tuple[str, ...]:
    """The names that can stand where a verb's first value does: sub-verbs, or what it takes."""
    below = [one.partition(" ")[2] for one in ARGS if one.startswith(f"{verb} ")]
    known = {
        "list": tuple(TABLES),
        "plan": PLANNED,
        "task": tuple(TASKS),
        "slurm": tuple(name for name in VERBS if name != "slurm"),
        "reproduce": names("plans") if verb == "reproduce" else (),
        "completion": (*SCRIPTS,),
    }
    return (*below, *known.get(verb, ()))


def _verbs() -> dict[str, str]:
    return {name: words for name, (_, words) in VERBS.items()}


def bash() -> str:
    """The script for bash."""
    return "\n".join(["# ddbench completion bash", *_function(), "complete -o default -F _ddbench ddbench", ""])


def zsh() -> str:
    """The script for zsh, which runs bash's function by its own ``bashcompinit``."""
    start = ["autoload -U +X compinit && compinit -u", "autoload -U +X bashcompinit && bashcompinit"]
    text = ["# ddbench completion zsh", *start, *_function(), "complete -o default -F _ddbench ddbench", ""]
    return "\n".join(text)


def _function() -> Iterator[str]:
    yield "_ddbench() {"
    yield '  local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"'
    yield '  local verb="${COMP_WORDS[1]}" second flags="" values="" first="" start="" outer="" at=1 i'
    yield "  COMPREPLY=()"
    yield '  if [ "$COMP_CWORD" -eq 1 ]; then'
    yield f'    COMPREPLY=($(compgen -W {shlex.quote(" ".join(_verbs()))} -- "$current"))'
    yield "    return"
    yield "  fi"
    # bash takes --flag=value for three words, zsh for one
    yield '  if [ "$before" = = ] && [ "$COMP_CWORD" -gt 2 ]; then before="${COMP_WORDS[COMP_CWORD-2]}"'
    yield '  elif [ "$current" = = ]; then current=""'
    yield '  elif [ "${current#--*=}" != "$current" ]; then'
    yield '    before="${current%%=*}"; start="$before="; current="${current#*=}"'
    yield "  fi"
    yield from _behind()
    yield '  second="${COMP_WORDS[at+1]-}"'
    pairs = "|".join(shlex.quote(one) for one in ARGS if " " in one)
    yield '  if [ "$outer" != plan ] && [ "$COMP_CWORD" -gt $((at + 1)) ]; then'
    yield f'    case "$verb $second" in {pairs}) verb="$verb $second";; esac'
    yield "  fi"
    yield '  case "$verb" in'
    for verb in [*ARGS, *(name for name in VERBS if name not in ARGS)]:
        yield from _case(verb)
    yield "  esac"
    yield from _by_choice()
    yield '  [ "$outer $verb" != "plan buffer" ] || first=""'
    yield f'  case "$before" in {"|".join(LISTS)})'
    yield '    start="$start${current%"${current##*,}"}"; current="${current##*,}";; esac'
    yield '  if [ -n "$values" ]; then'
    yield '    [ "$values" = - ] || COMPREPLY=($(compgen -P "$start" -W "$values" -- "$current"))'
    yield '  elif [ "${current#-}" != "$current" ]; then'
    yield '    COMPREPLY=($(compgen -W "$flags" -- "$current"))'
    yield '  elif [ "$COMP_CWORD" -eq $((at + 1)) ] && [ -n "$first" ]; then'
    yield '    COMPREPLY=($(compgen -W "$first" -- "$current"))'
    yield "  fi"
    yield "}"


def _behind() -> Iterator[str]:
    """The verb that stands behind another one: its flags follow it."""
    yield '  case "$verb" in'
    for outer in ("plan", "slurm"):
        takes = "|".join(one.name for one in options(outer) if one.takes)
        yield f"    {outer}) for ((i = 2; i < COMP_CWORD; i++)); do"
        yield f'      case "${{COMP_WORDS[i-1]}}" in {takes}) continue;; esac'
        yield f'      case "${{COMP_WORDS[i]}}" in {"|".join(places(outer))})'
        yield f'        outer={outer}; verb="${{COMP_WORDS[i]}}"; at=$i; break;; esac'
        yield "    done;;"
    yield "  esac"


def _by_choice() -> Iterator[str]:
    """What the method or task that is named already adds."""
    yield '  local chosen=""'
    yield '  [ "$verb" != task ] || chosen="$second"'
    yield "  for ((i = 2; i < COMP_CWORD; i++)); do"
    yield '    [ "${COMP_WORDS[i]}" != --method ] || chosen="${COMP_WORDS[i+1]}"'
    yield '    [ "${COMP_WORDS[i]#--method=}" = "${COMP_WORDS[i]}" ] || chosen="${COMP_WORDS[i]#--method=}"'
    yield '    [ "$chosen" != = ] || chosen="${COMP_WORDS[i+2]-}"'
    yield "  done"
    yield '  case "$verb $chosen" in'
    for (verb, name), found in chosen().items():
        yield f"    {shlex.quote(f'{verb} {name}')})"
        yield f'      flags="$flags {" ".join(one.name for one in found)}"'
        yield '      case "$before" in'
        yield from _values(found)
        yield "      esac;;"
    yield "  esac"


def _values(found: Iterable[Option]) -> Iterator[str]:
    for one in found:
        if one.takes:  # a dash: no names are known, the shell offers files
            yield f"        {one.name}) values={shlex.quote(' '.join(one.values) or '-')};;"


def _case(verb: str) -> Iterator[str]:
    """What a verb adds: its flags, the values of the flag before, the names that can stand first."""
    found = options(verb) if verb in ARGS else []
    yield f"    {shlex.quote(verb)})"
    yield f"      flags={shlex.quote(' '.join(one.name for one in found))}"
    if places(verb):
        yield f"      first={shlex.quote(' '.join(places(verb)))}"
    yield '      case "$before" in'
    yield from _values(found)
    yield "      esac;;"


def fish() -> str:
    """The script for fish, with the words of every flag."""
    lines = ["# ddbench completion fish", "complete -c ddbench -e"]
    for name, words in _verbs().items():
        lines.append(f"complete -c ddbench -f -n __fish_use_subcommand -a {name} -d {_quoted(words)}")
    for verb in [*ARGS, *(name for name in VERBS if name not in ARGS)]:
        name, _, second = verb.partition(" ")
        here = f"__fish_seen_subcommand_from {name}"
        below = [one for one in places(name) if f"{name} {one}" in ARGS]
        if second:
            here += f"; and __fish_seen_subcommand_from {second}"
        elif below:
            here += f"; and not __fish_seen_subcommand_from {' '.join(below)}"
        if not second and places(verb):
            given = f"__fish_seen_subcommand_from {name}; and not __fish_seen_subcommand_from {' '.join(places(verb))}"
            lines.append(f"complete -c ddbench -f -n {_quoted(given)} -a {_quoted(' '.join(places(verb)))}")
        lines += [_of_fish(here, one) for one in (options(verb) if verb in ARGS else [])]
    for (verb, name), found in chosen().items():
        here = f"__fish_seen_subcommand_from {verb}; and "
        named = f"__fish_seen_subcommand_from {name}"
        here += named if verb == "task" else f"string match -qr -- '--method[= ]{name}( |$)' (commandline -pc)"
        lines += [_of_fish(here, one) for one in found]
    return "\n".join([*lines, ""])


def _of_fish(here: str, one: Option) -> str:
    names = " ".join(one.values)
    if one.name in LISTS and names:
        names = f'(__fish_complete_list , \'string split " " "{names}"\')'
    value = f" -x -a {_quoted(names)}" if names else " -r" if one.takes else ""
    return f"complete -c ddbench -n {_quoted(here)} -l {one.name[2:]}{value} -d {_quoted(one.words)}"


def _quoted(text: str) -> str:
    """A text in single quotes, as fish reads them."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SCRIPTS: dict[str, Callable[[], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
