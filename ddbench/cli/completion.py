"""``ddbench completion SHELL``: a script by which a shell completes verbs, flags, and the values that are names.

The script is text that knows everything: completing starts no Python. Imports no torch.
"""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import tyro

from ddbench.cli.help import flags_of
from ddbench.cli.listing import TABLES
from ddbench.cli.main import VERBS
from ddbench.cli.parse import parse
from ddbench.cli.plan import VERBS as PLANNED
from ddbench.tasks import TASKS

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


@dataclass(frozen=True, kw_only=True)
class Args:
    """Print a script by which a shell completes verbs, flags and names. Flags of a single method are not in it: see
    ddbench distill --method M --help."""

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
    found = []
    for flag in flags_of(kind):
        if flag.positional:
            continue
        said, _, word = flag.said.partition(" ")
        choices = tuple(word.split("|")) if re.fullmatch(r"[a-z][a-z0-9|]*", word) else ()
        values = names(NAMES[flag.name]) if flag.name in NAMES else choices
        found.append(Option(name=said, takes=bool(word), values=values, words=re.split(r"[;:.(]\s", flag.words)[0]))
    return [*found, Option(name="--help", takes=False, values=(), words="flags and examples")]


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
    yield '  local verb="${COMP_WORDS[1]}" second="${COMP_WORDS[2]-}" flags="" values="" first=""'
    yield "  COMPREPLY=()"
    yield '  if [ "$COMP_CWORD" -eq 1 ]; then'
    yield f'    COMPREPLY=($(compgen -W {shlex.quote(" ".join(_verbs()))} -- "$current"))'
    yield "    return"
    yield "  fi"
    pairs = "|".join(shlex.quote(one) for one in ARGS if " " in one)
    yield '  if [ "$COMP_CWORD" -gt 2 ]; then'
    yield f'    case "$verb $second" in {pairs}) verb="$verb $second";; esac'
    yield "  fi"
    yield '  case "$verb" in'
    for verb in [*ARGS, *(name for name in VERBS if name not in ARGS)]:
        yield from _case(verb)
    yield "  esac"
    yield '  if [ -n "$values" ]; then'
    yield '    [ "$values" = - ] || COMPREPLY=($(compgen -W "$values" -- "$current"))'
    yield '  elif [ "${current#-}" != "$current" ]; then'
    yield '    COMPREPLY=($(compgen -W "$flags" -- "$current"))'
    yield '  elif [ "$COMP_CWORD" -eq 2 ] && [ -n "$first" ]; then'
    yield '    COMPREPLY=($(compgen -W "$first" -- "$current"))'
    yield "  fi"
    yield "}"


def _case(verb: str) -> Iterator[str]:
    """What a verb adds: its flags, the values of the flag before, the names that can stand first."""
    found = options(verb) if verb in ARGS else []
    yield f"    {shlex.quote(verb)})"
    yield f"      flags={shlex.quote(' '.join(one.name for one in found))}"
    if places(verb):
        yield f"      first={shlex.quote(' '.join(places(verb)))}"
    yield '      case "$before" in'
    for one in found:
        if one.takes:  # a dash: no names are known, the shell offers files
            yield f"        {one.name}) values={shlex.quote(' '.join(one.values) or '-')};;"
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
        for one in options(verb) if verb in ARGS else []:
            value = f" -x -a {_quoted(' '.join(one.values))}" if one.values else " -r" if one.takes else ""
            lines.append(f"complete -c ddbench -n {_quoted(here)} -l {one.name[2:]}{value} -d {_quoted(one.words)}")
    return "\n".join([*lines, ""])


def _quoted(text: str) -> str:
    """A text in single quotes, as fish reads them."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SCRIPTS: dict[str, Callable[[], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
