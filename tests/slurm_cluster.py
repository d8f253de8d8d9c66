"""A real Slurm of one node for tests: Debian's slurmctld, slurmd and munge (``apt-get install slurm-wlm munge``), with
ports of its own, in a folder, as the user who runs the tests."""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PATIENCE = 600.0
PATHS = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
DAEMONS = {name: shutil.which(name, path=PATHS) for name in ("munged", "slurmctld", "slurmd")}

CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1
ReturnToService=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MaxJobCount={jobs}
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=60 State=UP
"""


class Cluster:
    """Where it is, and how its programs find it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "slurm.conf"

    def call(self, *argv: object) -> str:
        """The output of a program of Slurm."""
        environment = {**os.environ, "SLURM_CONF": str(self.config)}
        command = list(map(str, argv))
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=True)
        return done.stdout.strip()

    def states(self, job: str) -> list[str]:
        """States of a job's tasks, those that ended too; an array of which no task began has one."""
        words = self.call("scontrol", "show", "job", job).split()
        return [word.partition("=")[2] for word in words if word.startswith("JobState=")]


@contextlib.contextmanager
def running(folder: Path, cpus: int = 2, jobs: int = 100) -> Iterator[Cluster]:
    """Start it, and stop it after the block.

    Args:
        folder: its files; made.
        cpus: cores of the node, whether the machine has them or not.
        jobs: as many may be queued.
    """
    cluster, host = Cluster(folder), socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)  # munge insists
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    controller, daemon = _free_ports(2)
    values = {"folder": folder, "host": host, "user": getpass.getuser(), "cpus": cpus, "jobs": jobs}
    cluster.config.write_text(CONFIG.format(controller=controller, daemon=daemon, **values))
    munge = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "seed-file": "munge.seed"}
    flags = {
        "munged": ["--foreground", "--force", *(f"--{flag}={folder / name}" for flag, name in munge.items())],
        "slurmctld": ["-D", "-c"],
        "slurmd": ["-D", "-c", "-N", host],
    }
    started: list[subprocess.Popen[bytes]] = []
    environment = {**os.environ, "SLURM_CONF": str(cluster.config)}
    try:
        for name, path in DAEMONS.items():
            with open(folder / f"{name}.out", "w") as out:
                started.append(subprocess.Popen([path, *flags[name]], env=environment, stdout=out, stderr=out))
            if name == "munged":
                _wait_for((folder / "munge.socket").exists, folder)
        _wait_for(lambda: _node(cluster) == "idle", folder)
        yield cluster
        cluster.call("scancel", f"--user={getpass.getuser()}")  # no process of a task outlives it
        _wait_for(lambda: not cluster.call("squeue", "--noheader"), folder)
    finally:
        for one in reversed(started):
            one.terminate()
        for one in reversed(started):
            try:
                one.wait(10)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()


def _node(cluster: Cluster) -> str:
    with contextlib.suppress(subprocess.CalledProcessError):  # not up yet
        return cluster.call("sinfo", "--noheader", "--format=%t")
    return ""


def _wait_for(ready, folder: Path) -> None:
    limit = time.monotonic() + PATIENCE
    while not ready():
        logs = "\n".join(path.read_text() for path in [*folder.glob("*.out"), *folder.glob("*.log")])
        assert time.monotonic() < limit, f"Slurm does not come up:\n{logs}"
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
