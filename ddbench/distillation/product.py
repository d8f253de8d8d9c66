"""The end of a run: the product with its provenance, its picture, and what it cost."""

from __future__ import annotations

from typing import Any

from ddbench.distillation.begin import Run
from ddbench.methods.base import Distilled, Method
from ddbench.methods.needs import TOLD_OF_ALL
from ddbench.preview import preview_png
from ddbench.runtime.files import write_bytes, write_json
from ddbench.synset import Synset, write_synset


def finish(run: Run, synset: Synset, cost: dict[str, Any], prepared: dict[str, Any]) -> None:
    """Write the product and what it cost, the product last: where it is, the run is finished.

    Args:
        cost: of the run itself.
        prepared: of what :meth:`ddbench.methods.base.Method.prepare` made.

    Raises:
        UserError: the disk refuses.
    """
    write_bytes(run.out / "preview.png", preview_png(synset, run.context.preprocess))
    upstream = dict.fromkeys(TOLD_OF_ALL) | {need.key: need.cost(run.context.given(need)) for need in run.needs}
    write_json(run.out / "cost.json", cost | {"upstream": upstream | prepared} | run.settings.ranks.record())
    write_synset(run.product, synset)


def wrap(product: Distilled, method: Method[Any], resolved: dict[str, Any]) -> Synset:
    """A product with its provenance."""
    context = method.context
    return Synset(
        **vars(product),
        preprocess=resolved["preprocess"],
        budget=method.budget,
        dataset=context.dataset.spec.name,
        fingerprint=context.dataset.fingerprint,
        class_names=context.dataset.spec.class_names,
        method=resolved["method"],
        config={**resolved["config"], "holdout": resolved["holdout"]},
        seed=context.seed,
        student=context.student if method.iterations and method.uses_student else None,
        augmentation=method.augmentation,
        versions=resolved["versions"],
        parents={need.key: resolved[need.key][need.identity] for need in method.needs(method.config)},
    )
