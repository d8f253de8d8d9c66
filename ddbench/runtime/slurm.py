"""A batch script for Slurm that runs one command, goes on when it is killed, and is submitted by ``sbatch``.

The command must go on where it was when it is typed again, as every long verb does. Slurm itself starts a task anew
when its node is lost or it is preempted, but not when its process is killed or its time is up: the script does.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ddbench.runtime.errors import UserError

FORMS = {
    "partition": (r"\S+", "the name of a partition (sinfo lists them)"),
    "account": (r"\S+", "the name of an account"),
    "time": (r"([0-9]{1,9}-)?[0-9]{1,9}(:[0-9]{1,9}){0,2}", "minutes, or a time such as 8:00:00 or 1-12:00:00"),
    "gpus": (r"([A-Za-z]\S*:)?[1-9][0-9]*", "a number such as 1, or kind and number such as a100:1"),
    "memory": (r"[1-9][0-9]*[KMGT]?", "an amount such as 16G"),
    "name": (r"[\w.-]+", "letters, digits, dots and dashes"),
}
"""Request -> (its form, how the form is told)."""


EARLY = 60
"""So many seconds before the time that it is told Slurm may send the signal."""


def _seconds(time: str) -> int:
    """Seconds of a time in one of Slurm's forms: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    else:
        hours, minutes, seconds = parts if len(parts) == 3 else [0, *parts, 0][:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _worded(value: str) -> str:
    """A value as sbatch reads it: it cuts a line at its spaces but between quotes."""
    return f'"{value}"' if re.search(r"\s", value) else value


@dataclass(frozen=True, kw_only=True)
class Requests:
    """What a task asks of Slurm, and how often it is begun again; None: as the cluster has it."""

    partition: str | None = None
    """Partition, as sinfo lists them; default: the cluster's."""
    account: str | None = None
    """Account that is charged; default: the user's."""
    time: str | None = None
    """Longest time of a task, such as 8:00:00; it goes on in a new one when that is up. Default: the partition's."""
    gpus: str | None = None
    """GPUs of each task: a number, or kind and number such as a100:1."""
    cpus: int | None = None
    """Processor cores of each task."""
    memory: str | None = None
    """Memory of each task, such as 16G."""
    array: int | None = None
    """Tasks among which the work is shared out; for verbs with --shard."""
    at_most: int | None = None
    """Tasks of the array that run at once; default: as many as fit."""
    requeue: bool = True
    """Do not queue a task again when its node is lost, it is preempted or its time is up."""
    warning: int = 120
    """Seconds before the end of its time at which a task stops and is queued again."""
    requeues: int = 20
    """How often a task whose time is up is queued again."""
    tries: int = 3
    """How often the command is begun on one node when its process is killed."""
    name: str | None = None
    """Name of the job; default: ddbench-VERB."""
    logs: Path | None = None
    """Folder for the tasks' logs, which must be there; default: where the job is submitted."""
    options: str = ""
    """Further options of sbatch, without dashes: "qos=low constraint=a100"."""
    setup: str = ""
    """Shell commands before the verb, such as "module load cuda"."""

    def check(self) -> None:
        """Refuse what cannot be a request.

        Raises:
            UserError: a value of another form, a number that is too small, a folder that is not there.
        """
        for name, (form, expected) in FORMS.items():
            value = getattr(self, name)
            if value is not None and not re.fullmatch(form, value):
                raise UserError(f"--{name} {value!r:.80}: expected {expected}")
        for name, least in {"cpus": 1, "array": 1, "at_most": 1, "warning": 1, "requeues": 0, "tries": 1}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"--{name.replace('_', '-')} {value}: expected at least {least}")
        if self.time is not None and _seconds(self.time) <= self.warning + EARLY:
            raise UserError(
                f"--time {self.time}: a task may be stopped {self.warning + EARLY} s before its end, and nothing "
                "of its time is left; give it more, or a smaller --warning"
            )
        if self.at_most is not None and self.array is None:
            raise UserError(f"--at-most {self.at_most}: of how many tasks? Give --array with it")
        if self.logs is not None and not self.logs.is_dir():
            raise UserError(f"--logs {self.logs}: no such folder; Slurm does not make it")
        for option in self.further():
            if not re.fullmatch(r"[a-z][\w-]*(=\S+)?", option):
                raise UserError(f"--options {option!r:.80}: expected names and values, such as qos=low")

    def further(self) -> list[str]:
        """The further options, one by one."""
        return self.options.split()

    def lines(self, name: str) -> list[str]:
        """The options of ``sbatch``, one a line, without the mark before them.

        Args:
            name: of the job, where none is given.
        """
        name = self.name or name
        log = f"{name}-%A_%a.log" if self.array else f"{name}-%j.log"
        spread = f"0-{self.array - 1}" + (f"%{self.at_most}" if self.at_most else "") if self.array else None
        wanted = {
            "job-name": name,
            "partition": self.partition,
            "account": self.account,
            "time": self.time,
            "nodes": 1,
            "ntasks": 1,
            "cpus-per-task": self.cpus,
            "gpus": self.gpus,
            "mem": self.memory,
            "array": spread,
            "output": log if self.logs is None else self.logs / log,
            "open-mode": "append",
            "signal": f"B:USR1@{self.warning}",
        }
        found = [f"{option}={_worded(str(value))}" for option, value in wanted.items() if value is not None]
        return [*found, "requeue" if self.requeue else "no-requeue", *self.further()]


SCRIPT = r"""#!/bin/bash
{options}

# A process that is killed is begun again, up to {tries} times; what it finished stays finished. Slurm sends USR1 before
# the task's time is up: the command is stopped and the task queued again. TERM (scancel, preemption) is passed on.
asked= interrupted= child=
stop() {{
  asked=$1 interrupted=1
  [ -z "$child" ] || kill -TERM "$child" 2>/dev/null
}}
trap 'stop time' USR1
trap 'stop end' TERM INT
{setup}for (( try = 1; ; try++ )); do
  {command} &
  child=$!
  [ -z "$asked" ] || kill -TERM "$child"
  wait "$child"
  code=$?
  while [ -n "$interrupted" ]; do  # the signal ended wait, not the command
    interrupted=
    wait "$child"
    now=$?
    [ "$now" -eq 127 ] || code=$now
  done
  if [ "$code" -lt 128 ] || [ "$asked" = end ]; then
    exit "$code"  # done, a mistake that another try would repeat, or an end that was asked for
  fi
  if [ "$asked" = time ]; then
    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {requeues} ]; then
      echo "the time is nearly up: queued again" >&2
      scontrol requeue "$SLURM_JOB_ID"
    fi
    exit "$code"
  fi
  echo "killed by signal $((code - 128)) (try $try of {tries})" >&2
  [ "$try" -lt {tries} ] || exit "$code"
done
"""


def batch_script(requests: Requests, command: Sequence[str], name: str) -> str:
    """The text of a bash script for ``sbatch`` that runs a command.

    Args:
        command: program and arguments; the same on every try.
        name: of the job, where the requests have none.

    Raises:
        UserError: see :meth:`Requests.check`.
    """
    requests.check()
    return SCRIPT.format(
        options="\n".join(f"#SBATCH --{line}" for line in requests.lines(name)),
        setup=f"{requests.setup.strip()}\n" if requests.setup.strip() else "",
        command=shlex.join(command),
        tries=requests.tries,
        requeues=requests.requeues if requests.requeue else 0,
    )


def submit(script: str) -> str:
    """Hand a script to ``sbatch``; returns the number of the job.

    Raises:
        UserError: there is no ``sbatch``, or Slurm does not take the job, in its own words; nothing is queued.
    """
    program = shutil.which("sbatch")
    if program is None:
        raise UserError("--submit: sbatch is not on this machine's PATH; leave --submit out and take the script along")
    process = subprocess.Popen(
        [program, "--parsable"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    said = []
    with process:
        with contextlib.suppress(BrokenPipeError):  # it ended without reading: its words say why
            process.stdin.write(script)
            process.stdin.close()
        for line in process.stderr:
            said.append(re.sub(r"^sbatch: (error|fatal): ", "", line).strip())
            if "retrying" in line:  # a full queue, or no controller: it would wait for minutes
                process.terminate()
                break
        number = process.stdout.read().strip().partition(";")[0]
    if process.returncode or not number:
        words = "; ".join(filter(None, said)) or f"sbatch ended with code {process.returncode}"
        raise UserError(f"Slurm did not take the job: {words}")
    return number
