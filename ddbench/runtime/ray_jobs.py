"""Jobs on a Ray cluster, in place of processes of this machine (:func:`ddbench.runtime.jobs.engine`).

Ray tries a job again when its process is killed or its node is lost. What a job gets and gives travels by value, files
that it names too (``by_value.py``); whatever else it reads or writes must lie on a disk that all nodes share. Loads ray
when it is used.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ddbench.runtime.by_value import packed, unpacked
from ddbench.runtime.device import auto_is, cores
from ddbench.runtime.errors import UserError, install_words, one_line
from ddbench.runtime.jobs import ATTEMPTS, WorkerDied, answer, resolve, unwrapped
from ddbench.runtime.numbers import whole

QUEUED = 256
"""Jobs that wait at Ray at once, so that a cluster that grows sees what is wanted and the driver's memory does not."""

CONNECT = 5.0
"""Seconds for a connection to a cluster's address."""

HEALTH = 20.0
"""Seconds in which a cluster must say that it is one."""

ASK = "from ray.scripts.scripts import main; print(flush=True); main()"

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",
}
"""Environment in which ray tells nobody about its use, warns of nothing to come, and gives its workers the priority of
others (else 15: on a busy machine they come to a standstill)."""

OWN = frozenset(name for name in os.environ if name.startswith("DDBENCH_"))
"""Our variables that a node sets itself; they hold there."""


@contextmanager
def cluster(
    address: str | None, *, workers: int, cpus: int, gpus: float | None, device: str = "auto"
) -> Iterator[RayCluster]:
    """Connect to a cluster, or start one on this machine that ends with the block.

    Args:
        address: ``HOST:PORT`` of a head; None: start one.
        workers: jobs at once; 0: as many as fit.
        cpus: processor cores that a job takes.
        gpus: part of a GPU that a job takes, 0 to 1; None: a whole one where the cluster has GPUs and ``device`` is not
            ``cpu``.

    Raises:
        UserError: ray is not installed, nothing answers at the address, or no node can take a job.
    """
    if gpus is not None and not 0 <= gpus <= 1:
        raise UserError(f"--gpu-share {gpus:g}: expected 0 to 1, the part of a GPU that a job takes")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    ray = _ray()
    logging.getLogger("ray").setLevel(logging.ERROR)
    folder = None
    options: dict[str, Any] = {"address": address}
    if address is None:
        folder = tempfile.mkdtemp(prefix="ddbench-ray-")
        options = {"address": "local", "num_cpus": max(workers * cpus or cores(), cpus), "_temp_dir": folder}
        options["include_dashboard"] = False
    else:
        _check_address(address)
    try:
        _connect(ray, options)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        share = _share(gpus, device, nodes)
        if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= share for node in nodes):
            said = f"{cpus} core(s)" + (f" and {share:g} GPU" if share else "")
            raise UserError(f"--engine ray: no node has {said} for a job; say other --threads or --gpu-share")
        yield RayCluster(ray, workers or QUEUED, {"num_cpus": cpus, "num_gpus": share})
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError:
        raise UserError(f"--engine ray needs the package ray: {install_words('ray')}") from None


def _connect(ray: Any, options: dict[str, Any]) -> None:
    """Raises UserError when ray cannot, for whatever reason: a slow machine, another version, no node here."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, configure_logging=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # some are no more than that
        raise UserError(f"--engine ray: {one_line(error)[:300]}") from error
    finally:
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGTERM, before)  # ray takes it


def _share(gpus: float | None, device: str, nodes: Sequence[dict[str, float]]) -> float:
    if gpus is not None:
        return gpus
    return float(device != "cpu" and any(node.get("GPU", 0) for node in nodes))


def _check_address(address: str) -> None:
    """Ray itself would try for minutes.

    Raises:
        UserError: no address, or no cluster there that takes us.
    """
    host, _, port = address.rpartition(":")
    number = whole(port)
    if not host or "/" in host or number is None or not 0 < number < 65536:
        raise UserError(f"--ray-address {address}: expected HOST:PORT of a head, such as 10.0.0.5:6379")
    try:
        socket.create_connection((host, number), CONNECT).close()
    except OSError as error:
        raise UserError(f"--ray-address {address}: nothing answers there ({error}); is `ray start` running?") from None
    command = [sys.executable, "-c", ASK, "health-check", "--address", address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()  # ray is loaded: that is not the cluster's time
        try:
            _, told = process.communicate(timeout=HEALTH)
        except subprocess.TimeoutExpired:
            process.kill()
            raise UserError(f"--ray-address {address}: what answers there is no Ray cluster") from None
    if process.returncode:
        said = told.strip().splitlines() or ["it is not well"]
        if "AuthenticationError" in said[-1]:
            said = ["set RAY_AUTH_MODE=token, and have the cluster's token in ~/.ray/auth_token"]
        raise UserError(f"--ray-address {address}: the cluster refuses us: {one_line(said[-1])[:300]}")


@dataclass(frozen=True)
class _Common:
    """What all jobs get; ``kind``: of the device that is theirs, ``cpu`` or ``cuda``."""

    kind: str
    target: str
    shared: Any
    environment: dict[str, str]
    folder: str


def run_job(common: _Common, payload: Any) -> tuple[str, Any]:
    """One job, in a worker of Ray."""
    import ray

    os.environ.update({name: value for name, value in common.environment.items() if name not in OWN})
    with contextlib.suppress(OSError):  # no such folder here: files travel, relative folders cannot
        os.chdir(common.folder)

    def do() -> Any:
        function = resolve(common.target)
        return function(unpacked(common.shared, ray.get), unpacked(payload, ray.get))

    with auto_is(common.kind, elsewhere=False):
        return answer(do)


class RayCluster:
    """An engine: a cluster that is connected to.

    Attributes:
        kind: of the device that a job is given, ``cpu`` or ``cuda``.
    """

    def __init__(self, ray: Any, width: int, resources: dict[str, float]) -> None:
        """Args: width: jobs that are at Ray at once; resources: what a job takes."""
        self._ray, self._width = ray, width
        self.kind = "cuda" if resources["num_gpus"] else "cpu"
        # A process cannot change its GPU, so Ray ends it after one job; others are used again.
        self._job = ray.remote(run_job).options(max_retries=ATTEMPTS - 1, **resources)

    def run(
        self,
        target: str,
        shared: Any,
        payloads: Sequence[Any],
        workers: int,
        deadline: float | None,
        *,
        survive: bool = False,
    ) -> Iterator[tuple[int, Any]]:
        """As :func:`ddbench.runtime.jobs.run_jobs`; how many run at once is the cluster's business.

        Raises:
            UserError, RuntimeError: as there.
        """
        ray = self._ray
        environment = {name: value for name, value in os.environ.items() if name.startswith("DDBENCH_")}
        common = ray.put(_Common(self.kind, target, packed(shared, ray.put), environment, str(Path.cwd())))
        waiting = iter(enumerate(payloads))
        pending: dict[Any, int] = {}
        try:
            while True:
                for index, payload in islice(waiting, self._width - len(pending)):
                    pending[self._job.remote(common, packed(payload, ray.put))] = index
                if not pending:
                    return
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                ready, _ = ray.wait(list(pending), timeout=left)
                if not ready:  # the time is up
                    return
                ready, _ = ray.wait(list(pending), num_returns=len(pending), timeout=0)  # all that ended meanwhile
                for reference in ready:
                    index = pending.pop(reference)
                    try:
                        found = self._result(reference)
                    except WorkerDied as error:
                        if not survive:
                            raise
                        found = error
                    yield index, found
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)

    def _result(self, reference: Any) -> Any:
        errors = self._ray.exceptions
        try:
            kind, value = self._ray.get(reference)
        except errors.OutOfMemoryError:
            raise WorkerDied("ray stopped a job because its node lacked memory: try fewer --workers") from None
        except (errors.WorkerCrashedError, errors.NodeDiedError):
            raise WorkerDied(
                f"a worker process or its node died {ATTEMPTS} times on the same job; it may lack memory: try fewer "
                "--workers"
            ) from None
        except errors.RayError as error:
            raise UserError(f"ray could not run a job: {str(error).strip().splitlines()[-1]}") from error
        return unwrapped(kind, value)
