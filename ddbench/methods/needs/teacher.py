"""The need for a teacher, or several: networks trained on the real data, trained first where none fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ddbench.methods.needs import Need, Request
from ddbench.methods.needs.flags import TeacherFlags
from ddbench.networks.check import check_student
from ddbench.networks.names import parse_student
from ddbench.runtime.device import resolve_device
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import recorded_seconds
from ddbench.runtime.progress import Console
from ddbench.teachers.join import join_teachers, read_joined
from ddbench.teachers.recipe import TeacherRecipe
from ddbench.teachers.store import Teacher, check_teacher, default_teacher, default_teachers, find_teacher, penalty_of
from ddbench.teachers.together import JOIN, MOST
from ddbench.teachers.train import ensure_teacher, fitting_teacher


@dataclass(frozen=True)
class TrainedTeacher(Need[Teacher]):
    """A teacher by ddbench's default recipe, with a penalty where one is asked for.

    Attributes:
        penalty, penalty_weight, penalty_step: as in :class:`ddbench.teachers.recipe.TeacherRecipe`.
    """

    key = "teacher"
    flags = TeacherFlags
    root = "teachers"

    penalty: str = "none"
    penalty_weight: float | None = None
    penalty_step: float = TeacherRecipe.penalty_step

    @property
    def penalised(self) -> dict[str, Any]:
        """The ``penalty`` fields of its recipe as it records them; empty: without a penalty."""
        return penalty_of(TeacherRecipe(**vars(self)).to_json())

    def check(self, run: Request) -> None:
        """Refuse a penalty out of range, and a network that cannot be one for these images."""
        TeacherRecipe(**vars(self)).check()
        spec = run.dataset.spec
        for student in self.architecture(run).split(JOIN):
            check_student(student, spec.channels, spec.size)

    def architecture(self, run: Request) -> str:
        """Name of the network."""
        name = run.flags_of(TeacherFlags).teacher_student
        return str(parse_student(name)) if name else default_teacher(run.dataset.spec.size)

    def look(self, run: Request) -> Teacher | None:
        """That of an earlier try: a better one that came into the store since would make another synset."""
        earlier = run.recorded.get(self.key)
        found = None
        if earlier is not None:
            found = find_teacher(run.flags_of(TeacherFlags).teachers, sha256=earlier["sha256"])
        if found is not None:
            check_teacher(found, run.dataset, run.preprocess)
            return found
        return self.fitting(run)

    def fitting(self, run: Request) -> Teacher | None:
        """The one of the store that fits."""
        return fitting_teacher(**self._wanted(run), preprocess=run.preprocess, console=run.console)

    def make(self, run: Request) -> Teacher:
        """Train one, by the default recipe."""
        return self.ensure(run, self.architecture(run))

    def ensure(self, run: Request, student: str) -> Teacher:
        """The one of the store that fits, else one that is trained."""
        return ensure_teacher(
            **{**self._wanted(run), "student": student},
            data=run.data,
            preprocess_kind=run.preprocess_kind,
            device=run.device,
            threads=run.threads,
            compile=run.compile,
            console=run.console,
        )

    def _wanted(self, run: Request) -> dict[str, Any]:
        return {
            "root": run.flags_of(TeacherFlags).teachers,
            "dataset": run.dataset,
            "student": self.architecture(run),
            "holdout": run.holdout,
            "penalty": self.penalised,
        }

    def refer(self, found: Teacher) -> dict[str, Any]:
        """Its hash, architecture, data and accuracy."""
        return found.reference()

    def recorded(self, reference: dict[str, Any], run: Request) -> dict[str, Any]:
        """As the architecture that is asked for now."""
        return {**reference, "student": self.architecture(run)}

    def cost(self, found: Teacher) -> dict[str, Any] | None:
        """Its ``wall_seconds`` and ``cpu_seconds``."""
        return recorded_seconds(found.path.with_name(f"{found.path.stem}.cost.json"))


@dataclass(frozen=True)
class TrainedTeachers(TrainedTeacher):
    """One teacher or several that a method takes in turn and whose logits label together.

    ``--teacher-student`` names their networks, joined by commas. Of several the method is given one file that holds
    them all (:mod:`ddbench.teachers.together`), made of those of the store that fit, or that are trained first.
    """

    def check(self, run: Request) -> None:
        """Refuse networks that cannot be teachers for these images, or one that is named twice."""
        names = self.architecture(run).split(JOIN)
        flag = f"--teacher-student {','.join(names)}"
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"{flag}: names {name} twice; give each network once")
        if len(names) > MOST:
            raise UserError(f"{flag}: {len(names)} networks, expected at most {MOST}")
        super().check(run)

    def architecture(self, run: Request) -> str:
        """Names of the networks, joined by ``+``."""
        given = run.flags_of(TeacherFlags).teacher_student
        if given is None:
            return JOIN.join(default_teachers(run.dataset.spec.size))
        return JOIN.join(str(parse_student(name.strip())) for name in given.split(","))

    def fitting(self, run: Request) -> Teacher | None:
        """A single one of the store, or the file of several that were put together by :meth:`make` before."""
        names = self.architecture(run).split(JOIN)
        if len(names) == 1:
            return super().fitting(run)
        wanted, root = self._wanted(run), run.flags_of(TeacherFlags).teachers
        members: list[Teacher] = []
        for name in names:
            how = {**wanted, "student": name}
            one = fitting_teacher(**how, preprocess=run.preprocess, console=Console(quiet=True))
            if one is None:
                return None
            members.append(one)
        return read_joined(root, members)

    def make(self, run: Request) -> Teacher:
        """Train those that are not there, and put several into one file."""
        made = list(self._each(run))
        if len(made) == 1:
            return made[0]
        return join_teachers(
            run.flags_of(TeacherFlags).teachers,
            made,
            dataset=run.dataset,
            preprocess=run.preprocess,
            device=resolve_device(run.device),
            console=run.console,
        )

    def _each(self, run: Request) -> Iterator[Teacher]:
        for name in self.architecture(run).split(JOIN):
            yield self.ensure(run, name)
