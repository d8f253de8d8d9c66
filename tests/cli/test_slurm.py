"""``ddbench slurm``: the script's text, what it does when its command ends too early, and what is refused.

No Slurm is needed: the script is run by bash, with stand-ins for ``sbatch`` and ``scontrol``. On a real Slurm it runs
in ``test_slurm_cluster.py``.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PATIENCE

from ddbench.cli.slurm import EXAMPLES
from ddbench.runtime.errors import UserError
from ddbench.runtime.slurm import EARLY, Requests, batch_script


def program(folder: Path, name: str, text: str) -> Path:
    """An executable shell script."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first folder on the PATH."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    for name in ("SLURM_RESTART_COUNT", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    return folder


# The text


def test_text(ddb: Callable, tmp_path: Path):
    flags = ["--partition", "gpu", "--account", "lab", "--time", "1-12:00:00", "--gpus", "a100:2", "--cpus", 8]
    flags += ["--memory", "16G", "--array", 20, "--at-most", 4, "--logs", tmp_path, "--name", "mine", "--warning", 300]
    flags += ["--options", "qos=low exclusive", "--setup", "module load cuda", "--no-requeue"]
    result = ddb("slurm", *flags, "evaluate", "runs/a b", "--seeds", 24)
    assert (result.code, result.err) == (0, "")
    assert [line for line in result.out.splitlines() if line.startswith("#SBATCH")] == [
        "#SBATCH --job-name=mine",
        "#SBATCH --partition=gpu",
        "#SBATCH --account=lab",
        "#SBATCH --time=1-12:00:00",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks=1",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --gpus=a100:2",
        "#SBATCH --mem=16G",
        "#SBATCH --array=0-19%4",
        f"#SBATCH --output={tmp_path}/mine-%A_%a.log",
        "#SBATCH --open-mode=append",
        "#SBATCH --signal=B:USR1@300",
        "#SBATCH --no-requeue",
        "#SBATCH --qos=low",
        "#SBATCH --exclusive",
    ]
    assert "\nmodule load cuda\n" in result.out
    assert f"\n  {sys.executable} -m ddbench evaluate 'runs/a b' --seeds 24 &\n" in result.out


def test_a_flag_that_stands_alone_with_an_underscore(ddb: Callable):
    text = ddb("slurm", "--no_requeue", "distill", "--method", "mtt").out
    assert "#SBATCH --no-requeue\n" in text
    assert " -m ddbench distill --method mtt" in text


def test_text_without_flags(ddb: Callable):
    text = ddb("slurm", "distill", "--method", "mtt").out
    assert "#SBATCH --requeue\n" in text
    assert "--output=ddbench-distill-%j.log\n" in text
    for absent in ("--array", "--partition", "--account", "--time", "--gpus", "--cpus", "--mem"):
        assert f"#SBATCH {absent}" not in text


@pytest.mark.parametrize("example", [line for line in EXAMPLES.replace("\\\n", " ").splitlines() if line.strip()])
def test_examples_are_scripts_that_bash_reads(example: str, ddb: Callable):
    words = shlex.split(example.partition(" > ")[0])
    result = ddb(*(word for word in words[1:] if word != "--submit"))
    assert (result.code, result.err) == (0, "")
    subprocess.run(["bash", "-n"], input=result.out, text=True, check=True)


def test_help_of_the_verb_that_is_run(ddb: Callable):
    assert ddb("slurm", "--gpus", 1, "evaluate", "--help").out == ddb("evaluate", "--help").out


# What it does


def run(command: Path, requests: Requests | None = None) -> subprocess.CompletedProcess[str]:
    script = batch_script(requests or Requests(), [str(command), "it's", "$HOME"], "test")
    return subprocess.run(["bash"], input=script, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_a_killed_command_is_begun_again(tools: Path, tmp_path: Path):
    log = tmp_path / "log"
    command = program(tools, "command", f'echo "$1 $2" >> {log}\n[ $(wc -l < {log}) -eq 3 ] || kill -9 $$')
    done = run(command)
    assert (done.returncode, done.stdout) == (0, "")
    assert log.read_text() == "it's $HOME\n" * 3
    assert done.stderr.count("killed by signal 9") == 2
    log.unlink()
    assert run(command, Requests(tries=2)).returncode == 128 + signal.SIGKILL
    assert len(log.read_text().splitlines()) == 2


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_command_that_ends_by_itself_is_not_repeated(code: int, tools: Path, tmp_path: Path):
    command = program(tools, "command", f"echo once >> {tmp_path}/log\nexit {code}")
    assert run(command).returncode == code
    assert (tmp_path / "log").read_text() == "once\n"


SLOW = "trap 'echo stopped >> {log}; exit 143' TERM\necho begun >> {log}\nwhile :; do sleep 0.05; done"


def signalled(tools: Path, tmp_path: Path, number: int, requests: Requests, restarts: int = 0) -> tuple[int, list[str]]:
    """Code of a script that gets a signal in the middle of its command, and what happened in order."""
    log = tmp_path / "log"
    command = program(tools, "command", SLOW.format(log=log))
    program(tools, "scontrol", f'echo "scontrol $*" >> {log}')
    script = tmp_path / "script"
    script.write_text(batch_script(requests, [str(command)], "test"))
    environment = {**os.environ, "SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": str(restarts)}
    process = subprocess.Popen(["bash", str(script)], env=environment, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + PATIENCE
    while not (log.exists() and log.read_text()):
        assert time.monotonic() < limit
        time.sleep(0.02)
    process.send_signal(number)
    return process.wait(PATIENCE), log.read_text().splitlines()


def test_time_that_is_nearly_up(tools: Path, tmp_path: Path):
    code, log = signalled(tools, tmp_path, signal.SIGUSR1, Requests())
    assert (code, log) == (143, ["begun", "stopped", "scontrol requeue 17"])


def test_it_is_not_queued_again_for_ever(tools: Path, tmp_path: Path):
    code, log = signalled(tools, tmp_path, signal.SIGUSR1, Requests(requeues=3), restarts=3)
    assert (code, log) == (143, ["begun", "stopped"])


def test_it_is_not_queued_again_where_that_is_not_wanted(tools: Path, tmp_path: Path):
    code, log = signalled(tools, tmp_path, signal.SIGUSR1, Requests(requeue=False))
    assert (code, log) == (143, ["begun", "stopped"])


def test_a_signal_before_the_command(tools: Path, tmp_path: Path):
    command = program(tools, "command", SLOW.format(log=tmp_path / "log"))
    program(tools, "scontrol", f'echo "scontrol $*" >> {tmp_path}/log')
    script = batch_script(Requests(setup="kill -USR1 $$"), [str(command)], "test")
    done = subprocess.run(["bash"], input=script, text=True, capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 143
    assert (tmp_path / "log").read_text().endswith("scontrol requeue \n")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("1:30", 90), ("1:00:05", 3605), ("2-3", 183600), ("1-0:30", 88200), ("1-00:00:01", 86401)],
)
def test_times(text: str, seconds: int):
    Requests(time=text, warning=seconds - EARLY - 1).check()
    with pytest.raises(UserError, match="nothing of its time is left"):
        Requests(time=text, warning=seconds - EARLY).check()


def test_an_end_that_is_asked_for(tools: Path, tmp_path: Path):
    """scancel and preemption: the command is told, and not begun again; Slurm decides what becomes of the task."""
    code, log = signalled(tools, tmp_path, signal.SIGTERM, Requests())
    assert (code, log) == (143, ["begun", "stopped"])


# Submission


def test_submission(tools: Path, tmp_path: Path, ddb: Callable):
    program(tools, "sbatch", f'cat > {tmp_path}/script\necho "$*" > {tmp_path}/flags\necho "17;cluster"')
    flags = ["--array", 3, "evaluate", "runs/x"]
    result = ddb("slurm", "--submit", *flags)
    assert (result.code, result.err) == (0, "")
    assert result.out == "submitted: job 17, 3 tasks\nnext: squeue --job 17\n"
    assert (tmp_path / "script").read_text() == ddb("slurm", *flags).out
    assert (tmp_path / "flags").read_text() == "--parsable\n"
    assert "task continual runs/x" in ddb("slurm", "--array", 2, "task", "continual", "runs/x").out


def test_slurm_says_no(tools: Path, refused: Callable):
    line = "sbatch: error: invalid partition specified: x\nsbatch: error: Batch job submission failed: no"
    program(tools, "sbatch", f"cat > /dev/null\necho '{line}' >&2\nexit 1")
    refused(
        ["slurm", "--submit", "evaluate", "x"],
        "Slurm did not take the job: invalid partition specified: x; Batch job submission failed: no",
    )


def test_a_full_queue_is_not_waited_for(tools: Path, refused: Callable, tmp_path: Path):
    steps = (
        f"trap 'echo stopped >> {tmp_path}/log; exit 143' TERM",
        "echo 'sbatch: error: unable to accept job, sleeping and retrying' >&2",
        "for _ in $(seq 600); do sleep 0.1; done",
        f"echo waited >> {tmp_path}/log",
    )
    program(tools, "sbatch", "\n".join(steps))
    refused(["slurm", "--submit", "evaluate", "x"], "Slurm did not take the job: unable to accept job", root=tools)
    assert (tmp_path / "log").read_text() == "stopped\n"


def test_without_slurm(refused: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    refused(["slurm", "--submit", "evaluate", "x"], "sbatch is not on this machine's PATH", "--submit")


@pytest.mark.parametrize(
    ("argv", "needle"),
    [
        ([], "slurm: which verb?"),
        (["evalute"], "did you mean 'evaluate'?"),
        (["slurm", "evaluate"], "unknown verb 'slurm'"),
        (["--array", "0", "evaluate", "x"], "--array 0: expected at least 1"),
        (["--at-most", "2", "evaluate", "x"], "Give --array with it"),
        (["--time", "1h", "evaluate", "x"], "--time '1h': expected minutes"),
        (["--time", "3", "evaluate", "x"], "--time 3: a task may be stopped 180 s before its end"),
        (["--gpus", "none", "evaluate", "x"], "--gpus 'none'"),
        (["--partition", "a\n#SBATCH --x", "evaluate", "x"], "--partition"),
        (["--options=--qos=low", "evaluate", "x"], "--options '--qos=low'"),
        (["--logs", "nowhere", "evaluate", "x"], "--logs nowhere: no such folder"),
        (["--array", "2", "distill", "--ipc", "1"], "--array 2: the work of distill"),
        (["--array", "2", "buffer", "verify"], "--array 2: the work of buffer verify"),
        (["--array", "2", "evaluate", "x", "--shard", "0/2"], "leave --shard out"),
        (["--partitions", "x", "evaluate", "x"], "did you mean '--partition'?"),
    ],
)
def test_refusals(argv: list[str], needle: str, refused: Callable):
    refused(["slurm", *argv], needle)
