"""The functions of ``import ddbench``; the command line calls what they call. Imports no torch at module level."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ddbench.config import checked
from ddbench.data.specs import DATASETS, DatasetSpec
from ddbench.distillation import start as distillation
from ddbench.evaluation import start as evaluation
from ddbench.methods import METHODS
from ddbench.networks.names import REGISTERED, StudentSpec
from ddbench.protocols.protocol import PROTOCOLS, Protocol
from ddbench.runtime.errors import UserError
from ddbench.tasks import TASKS

if TYPE_CHECKING:
    from ddbench.evaluation.result import Evaluation
    from ddbench.leaderboard.submit import Plan
    from ddbench.loaded import LoadedSynset
    from ddbench.methods.base import Method
    from ddbench.tasks.base import Task
    from ddbench.tasks.result import TaskResult

P = ParamSpec("P")
R = TypeVar("R")


def _threads_kept(function: Callable[P, R]) -> Callable[P, R]:
    """Give the caller's process the number of torch's threads back that it had."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        import torch

        before = torch.get_num_threads()
        try:
            return function(*args, **kwargs)
        finally:
            torch.set_num_threads(before)

    return call


distill = _threads_kept(checked(distillation.distill))


@checked
def load(run: Path | str, *, data: Path | str | None = None, download: bool = False) -> LoadedSynset:
    """A synset as a torch ``Dataset`` of what a student is trained on: decoded and preprocessed images with labels.

    Args:
        run: a run folder, or a synset file.
        data: folder with the datasets; only a ZCA needs the real images.
        download: fetch them when they are not there.

    Raises:
        UserError: no synset, a malformed one, or a ZCA whose dataset is not there or is another one.
    """
    from ddbench.loaded import open_synset

    return open_synset(Path(run), None if data is None else Path(data), download)


@_threads_kept
@checked
def evaluate(
    run: Path | str,
    *,
    students: str | Sequence[str] | None = None,
    protocol: str | None = None,
    seeds: int = 5,
    calibration: bool = False,
    robustness: bool | str = False,
    corruptions: bool = False,
    ood: bool | str = False,
    out: Path | str | None = None,
    workers: int = 1,
    threads: int = 1,
    quiet: bool = False,
    **settings: Any,
) -> Evaluation:
    """Train students on a synset and test each once, as ``ddbench evaluate``; what is there already is not done again.

    Args:
        run: a run folder, or a synset file.
        students: names or groups; default: the network that the synset was distilled on.
        protocol: its name, or a TOML file; default: the usual one for what the synset holds.
        seeds: number of fresh networks of each student.
        calibration, corruptions: whether they are measured.
        robustness: a budget of attacks; True: ``quick``.
        ood: another dataset to be told from the test images; True: noise.
        out: result file; default: ``RUN/evaluations/<protocol>.json``.
        workers: processes; more than one start afresh, so a script must keep its calls under ``if __name__ ==
            "__main__":`` and register names of its own above it. 0: one a core, on a GPU one.
        threads: of each; the default is what the command line gives one worker a core, and results keep their bytes.
        quiet: show no progress.
        settings: the other fields of :class:`ddbench.evaluation.start.Asked`: ``epochs``, ``lr``, ``device``, ...

    Raises:
        UserError: whatever the caller can mend, before anything is written.
    """
    given = {"students": students, "robustness": robustness, "ood": ood, "out": out}
    plain = {"protocol": protocol, "seeds": seeds, "calibration": calibration, "corruptions": corruptions}
    how = {"workers": workers, "threads": threads, "quiet": quiet}
    return evaluation.evaluate(Path(run), evaluation.asked({**given, **plain, **how, **settings}))


@_threads_kept
@checked
def task(
    name: str,
    runs: Path | str | Sequence[Path | str],
    *,
    seeds: int = 5,
    out: Path | str | None = None,
    workers: int = 1,
    threads: int = 1,
    quiet: bool = False,
    **settings: Any,
) -> TaskResult:
    """Measure what synsets are for beside test accuracy, as ``ddbench task``; what is there is not done again.

    Args:
        name: ``continual``, ``membership``, ``nas``, ``transfer``, or a task of one's own.
        runs: run folders or synset files of one dataset, or a single one.
        seeds: number of fresh networks, the same for every run.
        out: result file; default: ``tasks/<dataset>-<task>.json``.
        workers, threads: as :func:`evaluate`.
        quiet: show no progress.
        settings: the other flags of ``ddbench task NAME``: ``memory``, ``to``, ``nets``, ``epochs``, ...

    Raises:
        UserError: whatever the caller can mend, before anything is written.
    """
    from ddbench.tasks import start

    places = [runs] if isinstance(runs, str | Path) else list(runs)
    given = {"seeds": seeds, "out": out, "workers": workers, "threads": threads, "quiet": quiet, **settings}
    asked, config = start.asked_of(name, given)
    return start.run(name, [Path(place) for place in places], asked, config)


@checked
def submit(
    run: Path | str,
    leaderboard: Path | str = "leaderboard",
    *,
    protocol: str | None = None,
    dry_run: bool = False,
    name: str = "",
    method: str = "",
    authors: Sequence[str] = (),
    links: Sequence[str] = (),
    code: str = "",
    licence: str = "",
    note: str = "",
    claims: Mapping[str, float] | None = None,
    claim_source: str | Sequence[str] = "",
    synset_url: str = "",
    teacher: Path | str | None = None,
    teachers: Path | str = "teachers",
    teacher_url: str = "",
    labels: Path | str | None = None,
    labels_url: str = "",
    leave_out: Sequence[str] = (),
    tasks: Sequence[Path | str] = (),
) -> Plan:
    """Put an evaluation of a run on a board, as ``ddbench submit``; the same one again changes nothing.

    While another process writes to the board, this one waits.

    Args:
        run: a run folder, or the synset file in it.
        leaderboard: folder of the board.
        protocol: which evaluation, when the run has several, by its name or its file; default: the only one, or the
            only standard one.
        dry_run: write nothing.
        name: how the method is called on the board; ``method`` names that of an imported synset.
        claims: student -> accuracy (0 to 1) that the authors report, in ``claim_source`` (one for all, or one each).
        authors, links, code, licence, note, synset_url, teacher_url, labels_url: as
            :class:`ddbench.leaderboard.submit.Submission`.
        leave_out: students of the evaluation that are not to be on the row, such as those that diverged.
        tasks: results of :func:`task` that have the run.
        teacher, teachers, labels: where files are that the evaluation used, if not where they usually are.

    Returns:
        What was, or would be, written: the row's ``path`` and ``result``, whether it was ``known``, ``items`` that it
        has and lacks.

    Raises:
        UserError: no run, no evaluation, several and none named, one of another synset, or a value that cannot be
            published.
    """
    from ddbench.leaderboard.packing import Given
    from ddbench.leaderboard.submit import Submission, submit_run

    said: dict[str, Any] = {"method": method, "method_title": name, "authors": authors, "links": links, "code": code}
    said |= {"licence": licence, "note": note, "claims": _claims(claims or {}), "claim_source": claim_source}
    said |= {
        "leave_out": leave_out,
        "tasks": [Path(one) for one in tasks],
        "synset_url": synset_url,
        "teacher_url": teacher_url,
        "labels_url": labels_url,
    }
    given = Given(teacher=_path(teacher), labels=_path(labels), teachers=Path(teachers))
    made = submit_run(Path(run), Path(leaderboard), Submission(**said), given, protocol=protocol, dry_run=dry_run)
    [(plan, _)] = made  # all of it: the board's turn ends with it
    return plan


def _path(place: Path | str | None) -> Path | None:
    return None if place is None else Path(place)


def _claims(claims: Mapping[str, float]) -> list[tuple[str, float]]:
    for student, value in claims.items():
        if not 0 <= value <= 1:
            raise UserError(f"claim {student}={value}: expected a fraction between 0 and 1, such as 0.887 for 88.7 %")
    return list(claims.items())


def _check_class(function: str, kind: Any) -> None:
    if not isinstance(kind, type):
        raise UserError(f"{function}: kind is {repr(kind)[:80]}, expected a class (docs/api.md)")


@checked
def register_method(name: str, kind: type[Method[Any]]) -> None:
    """Add a method under a name, for this process; a package adds its own by an entry point in ``ddbench.methods``.

    Raises:
        UserError: the name is taken, or ``kind`` is no class.
    """
    _check_class("register_method", kind)
    METHODS.register(name, kind)


@checked
def register_task(name: str, kind: type[Task[Any]]) -> None:
    """Add a task under a name, for this process; a package adds its own by an entry point in ``ddbench.tasks``.

    Raises:
        UserError: the name is taken, or ``kind`` is no class.
    """
    _check_class("register_task", kind)
    TASKS.register(name, kind)


@checked
def register_dataset(spec: DatasetSpec) -> None:
    """Add a dataset with its reader, for this process; packages: entry point group ``ddbench.datasets``.

    Raises:
        UserError: the name is taken, or the spec is incomplete.
    """
    DATASETS.register(spec.name, spec)


@checked
def register_student(spec: StudentSpec) -> None:
    """Add a network with its builder, for this process; packages: entry point group ``ddbench.students``.

    Raises:
        UserError: the name is taken, or has a meaning already.
    """
    REGISTERED.register(spec.name, spec)


@checked
def register_protocol(protocol: Protocol) -> None:
    """Add a protocol, for this process; packages: entry point group ``ddbench.protocols``.

    Raises:
        UserError: the name is taken, or a setting is out of range.
    """
    PROTOCOLS.register(protocol.name, protocol)
