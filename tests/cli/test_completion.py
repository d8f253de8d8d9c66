"""``ddbench completion``: the scripts know what the help says, and work in the shells that are here."""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PATIENCE

from ddbench.cli.completion import ARGS, SCRIPTS, options
from ddbench.cli.leaderboard import VERBS as BELOW
from ddbench.cli.main import VERBS


def test_every_verb_is_there():
    assert {verb.partition(" ")[0] for verb in ARGS} == set(VERBS)
    assert {f"leaderboard {name}" for name in BELOW} <= set(ARGS)


@pytest.mark.parametrize("verb", ARGS)
def test_the_flags_are_those_of_the_help(verb: str, ddb: Callable):
    text = ddb(*verb.split(), "--help").out
    listed = set(re.findall(r"^  (?:-h, )?(--[a-z-]+)", text[text.index("examples:") :], re.MULTILINE))
    assert {one.name for one in options(verb)} == listed


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a script a shell."""
    folder = tmp_path_factory.mktemp("scripts")
    for name, make in SCRIPTS.items():
        (folder / name).write_text(make())
    return folder


def test_the_verb_prints_the_script(ddb: Callable, scripts: Path, refused: Callable):
    for name in SCRIPTS:
        assert ddb("completion", name).out == (scripts / name).read_text()
    refused(["completion", "cmd"], "cmd")


def test_without_torch_the_rest_is_there():
    code = """
import sys
class Missing:
    def find_spec(self, name, *more):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(name, name="torch")
sys.meta_path.insert(0, Missing())
from ddbench.cli.main import run
run(["completion", "bash"])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--method-file" in found
    assert "--lr-images" not in found


CASES = {
    "verbs": ("ddbench re", {"relabel", "reproduce"}),
    "sub-verbs": ("ddbench buffer ", {"verify", "info", "import"}),
    "flags": ("ddbench distill --method-", {"--method-file"}),
    "flags of a sub-verb": ("ddbench leaderboard show --st", {"--student"}),
    "choices": ("ddbench export run --format g", {"grid"}),
    "methods": ("ddbench distill --method mt", {"mtt"}),
    "datasets": ("ddbench distill --dataset fash", {"fashion-mnist"}),
    "second of a list": ("ddbench evaluate x --students lenet,mlp-d3", {"lenet,mlp-d3-w128"}),
    "third of a list": (
        "ddbench evaluate x --students lenet,vit-d6-w512,resnet18ap-b",
        {"lenet,vit-d6-w512,resnet18ap-bn"},
    ),
    "one method only": ("ddbench distill --method dm,mt", set()),
    "recipes of experts": ("ddbench buffer --recipe mtt/dig", {"mtt/digits-ipc1", "mtt/digits-ipc10"}),
    "recipes of a method": ("ddbench distill --method ncfm --recipe dig", {"digits-ipc1", "digits-ipc10"}),
    "flags of a method": ("ddbench distill --ipc 1 --method mtt --lr-im", {"--lr-images"}),
    "flags of what it needs": ("ddbench distill --method mtt --buff", {"--buffers"}),
    "flags of no other method": ("ddbench distill --method random --lr-im", set()),
    "flags of a task": ("ddbench task continual runs/x --mem", {"--memory"}),
    "lists": ("ddbench list me", {"methods"}),
    "plans": ("ddbench reproduce digits", {"digits-cpu"}),
    "verbs that are planned": ("ddbench plan di", {"distill"}),
    "verbs for a cluster": ("ddbench slurm rela", {"relabel"}),
    "flags of what is planned": ("ddbench plan distill --method mtt --lr-im", {"--lr-images"}),
    "what is planned, behind flags": (
        "ddbench plan --workers 8 evaluate x --students lenet,mlp-d3",
        {"lenet,mlp-d3-w128"},
    ),
    "plans that are planned": ("ddbench plan reproduce digits", {"digits-cpu"}),
    "flags on a cluster": ("ddbench slurm --name buffer distill --method mtt --lr-im", {"--lr-images"}),
    "sub-verbs on a cluster": ("ddbench slurm leaderboard veri", {"verify"}),
    "shells": ("ddbench completion f", {"fish"}),
}

EQUALS = {
    "name": ("ddbench distill --method = mt", {"mtt"}),
    "nothing yet": ("ddbench export run --format =", {"grid", "hub", "npz", "png"}),
    "second of a list": ("ddbench evaluate x --students = lenet,mlp-d3", {"lenet,mlp-d3-w128"}),
    "recipe": ("ddbench distill --method = ncfm --recipe = dig", {"digits-ipc1", "digits-ipc10"}),
    "flags": ("ddbench plan distill --method = mtt --lr-im", {"--lr-images"}),
    "name, one word": ("ddbench distill --method=mt", {"--method=mtt"}),
    "second of a list, one word": (
        "ddbench evaluate x --students=lenet,mlp-d3",
        {"--students=lenet,mlp-d3-w128"},
    ),
    "recipe, one word": ("ddbench distill --method=mtt --recipe=digits-ipc10", {"--recipe=digits-ipc10"}),
}
"""Words as bash parts them at ``=``, and as zsh leaves them to the same function."""


@pytest.mark.parametrize(
    ("line", "wanted"),
    [*CASES.values(), *EQUALS.values()],
    ids=[*CASES, *(f"{name}, with =" for name in EQUALS)],
)
def test_bash(line: str, wanted: set[str], scripts: Path, tmp_path: Path):
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    words = line.split(" ")
    text = f"""
        source {shlex.quote(str(scripts / "bash"))}
        COMP_WORDS=({" ".join(map(shlex.quote, words))}); COMP_CWORD={len(words) - 1}
        _ddbench || true; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    found = subprocess.run(["bash", "-euc", text], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert set(found.stdout.split()) == wanted
    assert found.stderr == ""


@pytest.mark.parametrize(("line", "wanted"), CASES.values(), ids=CASES)
def test_fish(line: str, wanted: set[str], scripts: Path, tmp_path: Path):
    if shutil.which("fish") is None:
        pytest.skip("no fish")
    text = f"source {shlex.quote(str(scripts / 'fish'))}; complete -C {shlex.quote(line)}"
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    command = ["fish", "--no-config", "-c", text]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=True)
    assert {one.split("\t")[0] for one in found.stdout.splitlines()} == wanted
    assert found.stderr == ""


def test_zsh(scripts: Path, tmp_path: Path):
    """Typed into a terminal: zsh completes nowhere else."""
    if shutil.which("zsh") is None:
        pytest.skip("no zsh")
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execvpe("zsh", ["zsh", "-f", "-i"], {**os.environ, "HOME": str(tmp_path), "TERM": "dumb", "PS1": "> "})

    def typed(text: str, until: str) -> str:
        os.write(terminal, text.encode())
        seen, end = "", time.monotonic() + PATIENCE
        while until not in seen and select.select([terminal], [], [], max(0.0, end - time.monotonic()))[0]:
            seen += os.read(terminal, 4096).decode(errors="replace")
        return seen

    try:
        typed(f"source {shlex.quote(str(scripts / 'zsh'))}; echo rea''dy\n", "ready")
        for line, wanted in (("ddbench repr", "reproduce"), ("ddbench distill --method mt", "mtt")):
            assert wanted in typed(f"{line}\t", wanted), line
            typed("\x15", "")  # the line is taken away again
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)
