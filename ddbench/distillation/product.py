"""The end of a run: the product with its provenance, its picture, and what it cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddbench.distillation.begin import Run
from ddbench.distillation.folder import check_there
from ddbench.methods.base import Method
from ddbench.methods.needs import TOLD_OF_ALL
from ddbench.methods.returned import called
from ddbench.modalities import modality
from ddbench.protocols.plan import POSITIVE_RATES
from ddbench.runtime import authors
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json, write_bytes, write_json
from ddbench.synset import Provenance


def finish(run: Run, synset: Provenance, cost: dict[str, Any], prepared: dict[str, Any]) -> None:
    """Write the product and what it cost, the product last: where it is, the run is finished.

    Args:
        cost: of the run itself.
        prepared: of what :meth:`ddbench.methods.base.Method.prepare` made.

    Raises:
        UserError: the disk refuses, or the run's folder is gone.
    """
    check_there(run.out, run.resolved)
    write_bytes(run.out / "preview.png", modality(synset.modality).preview(synset, run.context.preprocess))
    upstream = dict.fromkeys(TOLD_OF_ALL) | {need.key: need.cost(run.context.given(need)) for need in run.needs}
    write_json(run.out / "cost.json", cost | {"upstream": upstream | prepared} | run.settings.ranks.record())
    write(run.product, synset)
    rates = getattr(synset, "learned_lr", None)
    if rates is not None and float(rates.min()) <= 0:
        run.context.console.say(
            f"warning: the learned learning rate is {float(rates.min()):g}, which trains nothing: evaluations that "
            f"use it are refused; {POSITIVE_RATES}"
        )


def wrap(method: Method[Any], resolved: dict[str, Any]) -> Any:
    """A method's product as it is now, with its provenance."""
    return modality(method.context.dataset.spec.modality).synset(method, resolved)


def check_product(method: Method[Any], resolved: dict[str, Any]) -> None:
    """Refuse what a method that is done has made, if it breaks the format: before it is kept as done.

    Raises:
        UserError: names the method and what is wrong.
    """
    synset = wrap(method, resolved)
    try:
        modality(synset.modality).check_format(Path("distilled()"), synset)
        canonical_json(synset.header())
    except (UserError, TypeError, ValueError) as error:
        raise UserError(f"{called(method)}: {error}; {authors.mend(type(method))}") from None


def write(path: Path, synset: Provenance) -> None:
    """Check and write a synset.

    Raises:
        UserError: it breaks the format, or the disk refuses.
    """
    modality(synset.modality).write(path, synset)
