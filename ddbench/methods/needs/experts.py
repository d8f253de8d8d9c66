"""The need for experts: a trajectory store that fits, or the command that records it."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddbench.data.dataset import Dataset
from ddbench.data.preprocess import Preprocess
from ddbench.data.specs import may_be_same, slug_patterns
from ddbench.experts.recipe import IMPORTED, OWN, ExpertRecipe, Kind, buffer_command
from ddbench.experts.record import recorded_cost
from ddbench.experts.store import TrajectoryStore, check_root, folders_like, read_store, root_for, store_folders
from ddbench.methods.needs import Need, Request
from ddbench.methods.needs.flags import ExpertsFlags
from ddbench.networks.build import build_student
from ddbench.runtime.errors import UserError, read_each
from ddbench.runtime.numbers import exact

EXPERTS = 20
"""How many experts a message tells to record where no recipe says."""

SAME = ("kind", "lr", "batch", "epochs", "optimizer")
"""What makes a store the one that a recipe asks for, beside the settings of its kind."""

SEEN_ALL = "holds imported experts, which have seen every training image"
"""Why imported experts, which fit otherwise, do not fit a run that holds images back."""


@dataclass(frozen=True)
class Experts(Need[TrajectoryStore]):
    """Experts of a kind.

    Attributes:
        kind: one of :data:`ddbench.experts.recipe.KINDS`, where no recipe asks for another.
    """

    key = "experts"
    flags = ExpertsFlags
    root = "buffers"
    identity = "identity"
    early = True

    kind: Kind = "sgd"

    def asked(self, table: Mapping[str, Any], where: str = "recipe") -> tuple[int, ExpertRecipe]:
        """Number and settings of the experts that a recipe's table asks for.

        Raises:
            UserError: unknown settings, or values of another type.
        """
        values = {"kind": self.kind, **{name: value for name, value in table.items() if name != "experts"}}
        return table.get("experts", EXPERTS), ExpertRecipe.from_json(values, where)

    def look(self, run: Request) -> TrajectoryStore:
        """The experts of an earlier try, though there may be more or better ones by now, else the store that fits.

        Of several that fit, those whose settings are the ones of the recipe come first, then the one with most
        experts, then the one with most epochs.

        Raises:
            UserError: none fits; the message says what is there and what to type.
        """
        table, spec, buffers = run.asked.get(self.key), run.dataset.spec, run.flags_of(ExpertsFlags).buffers
        check_root(buffers, one=True)
        count, wanted = self.asked(table or {})
        wanted = replace(wanted, preprocess=run.preprocess_kind, holdout=run.holdout)

        def rank(store: TrajectoryStore) -> tuple[bool, int, int]:
            return table is not None and _as_asked(store.recipe, wanted), len(store.experts), store.recipe.epochs

        fitting, reasons, imported = [], [], False
        stores, damaged = read_each(store_folders(buffers, spec.name, run.student), read_store)
        others = _elsewhere(run, {store.folder for store in stores})
        for store in [*sorted(stores, key=rank, reverse=True), *sorted(others, key=rank, reverse=True)]:
            reason = _misfit(store, run.method, wanted, run.dataset, run.preprocess, run.student)
            if reason is None:
                fitting.append(store)
                continue
            reasons.append(f"{store.folder} {reason}")
            imported |= reason == SEEN_ALL
        if fitting:
            return _of_before(fitting, run.recorded.get(self.key)) or fitting[0]
        if damaged:
            raise damaged[0]
        if imported:
            raise UserError(
                f"no experts of {run.student} on {spec.name} in {buffers} for --holdout {exact(run.holdout)}, but "
                f"{'; '.join(reasons)}: add --holdout 0"
            )
        found = f"; what is there does not fit: {'; '.join(reasons)}" if reasons else ""
        size = spec.size if spec.resizable else None
        command = buffer_command(spec.name, run.student, wanted, count, str(root_for(buffers)), size)
        raise UserError(f"no experts of {run.student} on {spec.name} in {buffers}{found}; record them with: {command}")

    def refer(self, found: TrajectoryStore) -> dict[str, Any]:
        """Identity, number and recipe of the experts."""
        return {"identity": found.identity(), "count": len(found.experts), "recipe": found.recipe.to_json()}

    def cost(self, found: TrajectoryStore) -> dict[str, Any] | None:
        """Their number, ``wall_seconds`` and ``cpu_seconds``."""
        try:
            return recorded_cost(found)
        except (UserError, KeyError, TypeError, AttributeError):  # a damaged record must not end a run that is done
            return None


def _elsewhere(run: Request, known: Container[Path]) -> list[TrajectoryStore]:
    """Stores of the same data of a user's own by another name of their place; damaged ones are passed over."""
    root, found = run.flags_of(ExpertsFlags).buffers, []
    for folders in slug_patterns(run.dataset.spec.name)[1:]:
        stores, _ = read_each(folders_like(root, folders, run.student), read_store)
        same = [store for store in stores if store.header["dataset_fingerprint"] == run.dataset.fingerprint]
        found += [store for store in same if store.folder not in known]
    return found


def _of_before(stores: list[TrajectoryStore], earlier: dict[str, Any] | None) -> TrajectoryStore | None:
    """The experts that a run referred to (:meth:`Experts.refer`): all of one of the stores, or its first ones.

    Those are the first by number or, where several processes recorded, by time.
    """
    if earlier is None:
        return None
    count = earlier.get("count")
    known = [*stores]
    if isinstance(count, int):
        known += [part(store, count) for store in stores for part in (TrajectoryStore.first, TrajectoryStore.earliest)]
    return next((store for store in known if store.identity() == earlier["identity"]), None)


def _as_asked(recipe: ExpertRecipe, wanted: ExpertRecipe) -> bool:
    names = (*SAME, *OWN.get(wanted.kind, ()))
    return all(getattr(recipe, name) == getattr(wanted, name) for name in names)


def _misfit(
    store: TrajectoryStore,
    method: str,
    wanted: ExpertRecipe,
    dataset: Dataset,
    preprocess: Preprocess,
    student: str,
) -> str | None:
    """Why a store cannot be used, or ``None``. Of imported experts nobody knows the kind: they fit any."""
    header, recipe, spec = store.header, store.recipe, dataset.spec
    if not store.experts:
        return "holds no finished expert"
    if not may_be_same(header["dataset"], spec.name) or header["student"] != student:
        return f"is of {header['student']} on {header['dataset']}"
    if "parent" in header:
        return "holds trajectories that a run derived from its own synset"
    if header.get("size", spec.size) != spec.size:
        return f"is of images of {header['size']} pixels (--size), here they have {spec.size}"
    if header["dataset_fingerprint"] != dataset.fingerprint:
        return f"is of other data (fingerprint {header['dataset_fingerprint'][:12]}, here {dataset.fingerprint[:12]})"
    if recipe.kind not in (wanted.kind, "imported"):
        return f"holds {recipe.kind} experts, {method} asks for {wanted.kind}"
    if recipe.preprocess != wanted.preprocess:
        return f"has preprocess {recipe.preprocess}, wanted {wanted.preprocess}"
    net = build_student(student, channels=spec.channels, size=spec.size, classes=spec.classes, seed=0)
    if header["parameters"] != [[name, list(parameter.shape)] for name, parameter in net.named_parameters()]:
        return f"has other parameters than {student}"
    if Preprocess.from_json(header["preprocess"], dataset) != preprocess:
        return "was recorded with other preprocess numbers"
    if recipe.holdout != wanted.holdout:
        if recipe.kind == IMPORTED:
            return SEEN_ALL
        return f"was recorded with --holdout {exact(recipe.holdout)}, wanted {exact(wanted.holdout)}"
    return None
