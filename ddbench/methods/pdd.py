"""PDD: progressive dataset distillation.

Chen, Yang, Wang, Mirzasoleiman: *Data Distillation Can Be Like Vodka: Distilling More Times For Better Quality*; ICLR
2024; openreview 1NHgmKqOzZ; code: VITA-Group/ProgressiveDD.

The images of a class are divided among K stages. Stage 1 is an ordinary run of a trajectory-matching method (the base).
For each later stage, every expert's first weights are trained on the images of the stages before, from there on the
real images, and this *derived* trajectory is recorded; the base method then makes the stage's images, which the student
sees together with the (frozen) ones of the stages before. A network that is to learn from such a synset is trained
on the stages in order (protocol ``pdd``).

Deviations from the public code, all listed in ``methods/pdd/README.md``: its script cannot run as published; a stage's
last images go on, not those that were best on the test set; passes are divided among the stages.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ddbench.config import apply_config, setting
from ddbench.data.specs import resolve_strategy
from ddbench.experts.derived import Link, open_derived, record_derived
from ddbench.experts.recipe import KINDS, ExpertRecipe
from ddbench.experts.store import TrajectoryStore
from ddbench.methods import METHODS
from ddbench.methods.base import Context, Distilled, Method, State
from ddbench.methods.facts import Facts
from ddbench.methods.families.decoded import Decoded
from ddbench.methods.families.trajectory import TrajectoryConfig, TrajectoryMethod
from ddbench.methods.needs import Need
from ddbench.methods.needs.experts import Experts
from ddbench.protocols.plan import POSITIVE_RATES, Plan
from ddbench.protocols.protocol import PROTOCOLS
from ddbench.protocols.training import Settings, train_network
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.synset import Budget, Synset
from ddbench.training.flat import load_flat
from ddbench.training.loops import Inputs, inputs_of
from ddbench.training.twice import check_batches

FOLDER = "trajectories"
"""Where a run keeps the derived trajectories, one folder a stage."""


@dataclass(frozen=True, kw_only=True)
class PDDConfig(TrajectoryConfig):
    """Settings of PDD; those of the trajectory-matching family are the base method's, in every stage."""

    iterations: int = setting(5000, at_least=1)
    """Outer iterations of each stage."""
    init: Literal["base", "real", "noise", "dream"] = "base"  # type: ignore[assignment]
    """First images of a stage: as the base method has them, random real ones, normal noise, or DREAM's choice."""
    stages: int = setting(5, at_least=1)
    """K: stages; the images per class must divide by it."""
    base: str = "mtt"
    """The method of the stages: a trajectory-matching one (mtt, ftd, tesla, datm, ast)."""
    base_options: str = ""
    """Further settings of the base method, as name=value joined by commas, e.g. skip_above=1.1,growth=100."""
    stage_epochs: int = setting(0, at_least=0, expected="at least 0 (0: as protocol pdd)", unless=("stages", 1))
    """Passes over the stages before that lead to a derived trajectory; 0: as many as protocol pdd makes in a stage."""


class PDD(Method[PDDConfig]):
    """Progressive stages over a trajectory-matching method.

    Attributes:
        stage: the one in work, from 0.
        finished: own images, labels and learned rate of the stages before.
        base: the base method at work on this stage.
    """

    config_class = PDDConfig
    facts = Facts(
        title="PDD",
        line="progressive stages over a trajectory-matching method",
        family="trajectory matching",
        protocol="pdd",
        paper="Data Distillation Can Be Like Vodka: Distilling More Times For Better Quality",
        authors=("Xuxi Chen", "Yu Yang", "Zhangyang Wang", "Baharan Mirzasoleiman"),
        venue="ICLR",
        year=2024,
        url="https://openreview.net/forum?id=1NHgmKqOzZ",
        code="https://github.com/VITA-Group/ProgressiveDD",
        licence="none stated",
    )
    second_order = True

    stage: int
    finished: list[Distilled]
    base: TrajectoryMethod[Any]

    @classmethod
    def check(cls, config: PDDConfig, context: Context) -> None:
        """The stages divide the images per class, and the base method accepts its part."""
        possible = [count for count in range(1, context.ipc + 1) if context.ipc % count == 0]
        if config.stages not in possible:
            raise UserError(
                f"--stages {config.stages} with --ipc {context.ipc}: every stage makes the same number of images of a "
                f"class; choose --stages {' or '.join(map(str, possible))}"
            )
        super().check(config, context)
        images = context.ipc // config.stages
        base_class(config).check(base_config(config), replace(context, ipc=images))
        for stage in range(1, config.stages):  # its student sees the images of those before as well
            seen = context.classes * images * (stage + 1)
            net, shape = context.network(0), context.dataset.spec.shape
            check_batches(config.batch_syn, seen, net, shape, context.student)

    @classmethod
    def needs(cls, config: PDDConfig) -> tuple[Need[Any], ...]:
        """The base method's."""
        return base_class(config).needs(base_config(config))

    @classmethod
    def compiles(cls, config: PDDConfig) -> bool:
        """The base method's steps, and the recording of derived trajectories."""
        return config.stages > 1 or base_class(config).compiles(base_config(config))

    @property
    def iterations(self) -> int:
        """Those of all stages."""
        return self.config.stages * self.config.iterations

    @property
    def augmentation(self) -> str:
        """The resolved strategy."""
        return resolve_strategy(self.config.augmentation, self.context.dataset.spec.flip)

    def setup(self) -> None:
        """The first stage."""
        self.finished = []
        self._stores = [self.context.given(Experts)]
        self._begin()

    def step(self, iteration: int) -> dict[str, float]:
        """One outer iteration of the base method; the first of a later stage records its trajectories before."""
        stage, within = divmod(iteration, self.config.iterations)
        while len(self.finished) < stage:
            self.finished.append(self._own())
            self._begin()
        return {**self.base.step(within), "stage": float(stage)}

    def distilled(self) -> Distilled:
        """All stages, class-major; those that are not begun yet consist of random real images (at beta_0)."""
        parts = [*self.finished, self._own()]
        parts += [self._later(stage) for stage in range(len(parts), self.config.stages)]
        stage = torch.cat([torch.full((len(part.labels),), number) for number, part in enumerate(parts)])
        images, labels = torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
        # by the class that an image was made for, which learned labels may not name first
        made_for = torch.arange(self.context.classes).repeat_interleave(self.context.ipc // self.config.stages)
        order = made_for.repeat(len(parts)).argsort(stable=True)
        rates = [part.learned_lr for part in parts if part.learned_lr is not None]
        return Distilled(images=images[order], labels=labels[order], learned_lr=torch.stack(rates), stage=stage[order])

    def state(self) -> State:
        """The stages that are finished, and the state of the base method."""
        tensors: dict[str, Tensor] = {}
        for number, part in enumerate(self.finished):
            assert part.learned_lr is not None
            tensors |= {
                f"stage.{number}.images": part.images,
                f"stage.{number}.labels": part.labels,
                f"stage.{number}.lr": part.learned_lr,
            }
        state = self.base.state()
        tensors |= {f"base.{name}": tensor for name, tensor in state.tensors.items()}
        return State(tensors=tensors, values={"stage": len(self.finished), "base": state.values})

    def load_state(self, state: State) -> None:
        """Take them over; trajectories that are missing are recorded."""
        self.finished, self._stores = [], self._stores[:1]
        tensors = state.tensors
        for number in range(int(state.values["stage"])):
            part = {name: tensors[f"stage.{number}.{name}"].cpu().clone() for name in ("images", "labels", "lr")}
            self.finished.append(Distilled(images=part["images"], labels=part["labels"], learned_lr=part["lr"]))
        self._begin()
        own = {name.removeprefix("base."): value for name, value in tensors.items() if name.startswith("base.")}
        self.base.load_state(State(tensors=own, values=state.values["base"]))

    def _begin(self) -> None:
        """Set the base method to the stage after the finished ones."""
        stage = len(self.finished)
        while len(self._stores) <= stage:
            self._stores.append(self._derive(len(self._stores)))
        context = replace(
            self.context,
            ipc=self.context.ipc // self.config.stages,
            seed=self._seed(stage),
        ).give(Experts, self._stores[stage])
        self.base = base_class(self.config)(base_config(self.config), context)
        self.base.kept = self._union(stage) if stage else None
        self.base.setup()

    def _seed(self, stage: int) -> int:
        """Seed of a stage; the first one has the run's, so that one stage is the base method itself."""
        return seeds.derive(self.context.seed, "stage", stage) if stage else self.context.seed

    def _own(self) -> Distilled:
        """What the base method has made of its own stage."""
        product, kept = self.base.distilled(), sum(len(part.images) for part in self.finished)
        return replace(product, images=product.images[kept:], labels=product.labels[kept:])

    def _later(self, stage: int) -> Distilled:
        """Stands for a stage that is not begun yet."""
        context = replace(self.context, ipc=self.context.ipc // self.config.stages, seed=self._seed(stage))
        labels, like = context.hard_labels(), self.base.delivered_labels()
        if like.is_floating_point():
            labels = 10 * torch.nn.functional.one_hot(labels, context.classes).float()
        return Distilled(
            images=context.preprocess.apply(context.random_images("mtt-init")).cpu(),
            labels=labels,
            learned_lr=torch.tensor(self.config.lr_student, dtype=torch.float32),
        )

    def _union(self, stage: int) -> Distilled:
        """The finished stages before one."""
        parts = self.finished[:stage]
        return Distilled(
            images=torch.cat([part.images for part in parts]), labels=torch.cat([part.labels for part in parts])
        )

    def _derive(self, stage: int) -> TrajectoryStore:
        """The trajectories of a later stage; those that are not there yet are recorded.

        Raises:
            UserError: no network can be trained at the rate of the stage before.
        """
        config, context, parent = self.config, self.context, self._stores[stage - 1]
        before = self._union(stage)
        rate = self.finished[stage - 1].learned_lr
        assert rate is not None
        if float(rate) <= 0:
            raise UserError(
                f"the learned learning rate of stage {stage} of {config.stages} is {float(rate):g}, which trains "
                f"nothing, and what the next stage matches begins with a training at it: {POSITIVE_RATES}"
            )
        plan = self._plan(before, rate)
        link = Link(
            identity=parent.identity(),
            stage=stage,
            synset=content_hash(before.images, before.labels, rate),
        )
        store = open_derived(context.folder / FOLDER / f"stage_{stage}", parent, self._recipe(), link)

        def start(index: int) -> nn.Module:
            net = context.network(0).to(context.device)
            load_flat(net, parent.rows(index, 0)[0])
            how = Settings(device=str(context.device), threads=torch.get_num_threads())
            train_network(net, plan, context.student, self._name("before", stage, index), how)
            return net

        record_derived(
            store,
            parent.indices,
            start,
            inputs=inputs_of(context.train, context.preprocess, context.device),
            held_out=self._held_out(),
            seed=lambda index: self._name("real", stage, index),
            compile=context.compile,
            console=context.console,
            title=f"stage {stage + 1} of {config.stages}",
        )
        return store

    def _plan(self, before: Distilled, rate: Tensor) -> Plan:
        """Training on the finished stages, as protocol ``pdd`` trains in one stage."""
        config, context, protocol = self.config, self.context, PROTOCOLS["pdd"]
        epochs = config.stage_epochs or protocol.epochs // config.stages
        synset = Synset(
            images=before.images,
            labels=before.labels,
            preprocess=context.preprocess.to_json(),
            budget=Budget("ipc", len(before.labels) // context.classes),
            dataset=context.dataset.spec.name,
            fingerprint=context.dataset.fingerprint,
            class_names=context.dataset.spec.class_names,
            method=config.base,
            config={},
            seed=context.seed,
            learned_lr=rate,
        )
        return Plan(
            synset=synset,
            protocol=replace(protocol, epochs=max(1, epochs), sequential=False),
            preprocess=context.preprocess,
            flip=context.dataset.spec.flip,
        )

    def _recipe(self) -> ExpertRecipe:
        """How derived trajectories go on with real images: as the experts, no longer than segments reach."""
        recipe = self._stores[0].recipe
        epochs = self.config.max_start_epoch - 1 + self.config.expert_epochs
        return replace(recipe, epochs=epochs, kind=recipe.kind if recipe.kind in KINDS else "sgd")

    def _held_out(self) -> Inputs | None:
        context = self.context
        return inputs_of(context.held_out, context.preprocess, context.device) if len(context.held_out.labels) else None

    def _name(self, what: str, stage: int, index: int) -> int:
        """The seed of one training."""
        return seeds.derive(self.context.seed, f"pdd-{what}", stage, index)


def base_class(config: PDDConfig) -> type[TrajectoryMethod[Any]]:
    """The class of the base method.

    Raises:
        UserError: no such method, or one that matches no trajectories, or learns something else than images.
    """
    kind = METHODS.get(config.base, "--base")
    advice = "choose mtt, ftd, tesla, datm or ast"
    if not (isinstance(kind, type) and issubclass(kind, TrajectoryMethod)):
        raise UserError(f"--base {config.base}: matches no trajectories; {advice}")
    if issubclass(kind, Decoded):
        raise UserError(f"--base {config.base}: its product is no images, which stages are unions of; {advice}")
    return kind


def base_config(config: PDDConfig) -> Any:
    """The settings of the base method: the family's from PDD's own, the others from ``--base-options``.

    Raises:
        UserError: an option that is not ``name=value``, that the base method does not have, or of another type, or one
            that PDD has itself.
    """
    kind = base_class(config).config_class
    defaults = {field.name: field.default for field in fields(kind)}
    values: dict[str, Any] = {field.name: getattr(config, field.name) for field in fields(TrajectoryConfig)}
    own = values.keys() - {"init"}
    if config.init == "base":
        del values["init"]
    for part in filter(None, config.base_options.split(",")):
        name, equals, text = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise UserError(f"--base-options {part!r}: expected name=value")
        if name in own:
            raise UserError(
                f"--base-options {part.strip()}: a setting of pdd itself; give --{name.replace('_', '-')} {text}"
            )
        values[name] = _value(text, defaults.get(name))
    return apply_config(kind, values, f"--base-options of {config.base}")


def content_hash(*tensors: Tensor) -> str:
    """sha256 of the types, shapes and bytes of tensors, as hexadecimal digits."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _value(text: str, like: Any) -> Any:
    """A text as a value of the type of another one; the text itself where it is none."""
    if isinstance(like, bool):
        return {"true": True, "false": False}.get(text.lower(), text)
    if isinstance(like, int | float):
        try:
            return type(like)(text)
        except ValueError:
            return text
    return text
