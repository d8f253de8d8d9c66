"""What a distillation will take, from a few of its steps on this device, done in a scratch folder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ddbench.config import check_config
from ddbench.data.dataset import Dataset
from ddbench.distillation.begin import RunSettings, attention_for, look, references, resolved_settings
from ddbench.distillation.folder import CHECKPOINT, CHECKPOINT_KIND, check_folder
from ddbench.distillation.pieces import begun, steps_left
from ddbench.methods.base import Context, Method, NotFiniteError
from ddbench.methods.needs import Need
from ddbench.methods.returned import product_of, state_of
from ddbench.modalities import require_forecast
from ddbench.runtime import device as devices
from ddbench.runtime.errors import UserError
from ddbench.runtime.forecast import Forecast, Measured, clocked, count_flops, free_memory, taken_memory, waiter
from ddbench.runtime.progress import Console
from ddbench.runtime.tensors import open_tensors
from ddbench.synset import FILE

LINE_BYTES = 200
"""About a line of metrics."""


def forecast(
    name: str,
    kind: type[Method[Any]],
    config: Any,
    *,
    dataset: Dataset,
    data: Path | None,
    settings: RunSettings,
    out: Path,
    console: Console,
    seconds: float,
) -> Forecast:
    """What :func:`ddbench.distillation.runner.distill` will take with these arguments; one run is one unit.

    Args:
        seconds: that are spent on steps.

    Raises:
        UserError: what it would refuse; or something that the method needs is not there, and is made by the run.
    """
    check_config(config)
    require_forecast(dataset.spec.modality)
    needs = kind.needs(config)
    compile = "on" if settings.compile == "on" else "off"
    eager = replace(settings, compile=compile)
    context, request = look(name, kind, needs, dataset, data, eager, out, console)
    kind.check(config, context)
    attention = attention_for(kind, context)
    found = dict(context.resources)
    for need in needs:
        need.check(request)
        if not need.early:
            found[need.key] = _there(kind, need, need.look(request))
    check_folder(out, resolved_settings(name, config, context, settings) | references(needs, found, request))
    if kind.prepare is not Method.prepare:
        raise UserError(f"plan: {kind.title} first makes what its steps work on, so that no step can be tried; run it")
    devices.prepare(settings.threads)
    with tempfile.TemporaryDirectory() as scratch, attention:
        context = replace(context, resources=found, folder=Path(scratch), console=Console(quiet=True))
        return _measured(kind, config, context, eager, out, seconds)


def _prepared(method: Method[Any]) -> None:
    """All that comes before the first step: what is made when it is first looked at is looked at."""
    method.setup()
    state_of(method)


def _measured(
    kind: type[Method[Any]], config: Any, context: Context, settings: RunSettings, out: Path, seconds: float
) -> Forecast:
    method, wait = kind(config, context), waiter(context.device)
    _, setup = clocked(lambda _: _prepared(method), 0, 1, wait)
    measured = [Measured(what="preparation", times=1, seconds=setup)]
    finished = (out / FILE).exists()
    open_steps = [range(method.iterations)] if finished else _left(out, method)
    done = method.iterations if finished else method.iterations - sum(map(len, open_steps))
    total, flops = setup, None
    try:
        if method.iterations:
            flops = 0.0
            for steps, one in _tried(method, kind.title, seconds, wait):
                measured.append(one)
                left = sum(len(range(max(own.start, steps.start), min(own.stop, steps.stop))) for own in open_steps)
                total += one.seconds * left
                flops += (one.flops or 0.0) * left
        else:
            _, each = clocked(lambda _: method.distilled(), 0, 1, wait)
            measured.append(Measured(what="making the images", times=1, seconds=each))
            total += each
    except NotFiniteError as error:
        raise UserError(f"plan: a step could not be measured: {error}") from None
    return Forecast(
        what=f"{kind.title} on {context.dataset.spec.name}, {method.budget}, {method.iterations} steps ({done} done)",
        unit="run",
        all=1,
        done=int(finished),
        seconds=[] if finished else [total],
        flops=0.0 if finished else flops,
        measured=measured,
        memory=taken_memory(context.device),
        free=free_memory(context.device),
        disk=0 if finished else _disk(method),
        place=str(out),
        device=devices.describe(context.device),
        threads=settings.threads,
        parts=max(kind.terms_of_a_step(config, context), len(open_steps)),
        means="--workers" if len(method.pieces()) > 1 else "torchrun",
        notes=[*_left_out(settings), *(["measured without torch.compile"] if settings.compile == "off" else [])],
    )


def _disk(method: Method[Any]) -> int:
    """Bytes of the product, of the state and of the metrics; where only some classes were tried, as many for all."""
    product, context = product_of(method), method.context
    tensors = [product.images, *product.parameters.values(), product.labels, *state_of(method).tensors.values()]
    size = sum(one.numel() * one.element_size() for one in tensors)
    count = context.classes * context.ipc if method.budget.unit == "ipc" else 0
    share = max(1.0, count / max(1, len(product.labels)))
    return int(share * size) + LINE_BYTES * method.iterations


def _tried(
    method: Method[Any], title: str, seconds: float, wait: Callable[[], None]
) -> Iterator[tuple[range, Measured]]:
    """Of each range of steps that cost alike what one takes; ``seconds`` are for all ranges together."""
    ranges = method.alike()
    for steps in ranges:

        def step(number: int, steps: range = steps) -> Any:
            return method.step(steps[min(number, len(steps) - 1)])

        counted = count_flops(lambda: step(0))
        times, each = clocked(lambda number: step(number + 1), seconds / len(ranges), max(1, len(steps) - 1), wait)
        what = f"step of {title}" if len(ranges) == 1 else f"step {steps[0] + 1} to {steps[-1] + 1} of {title}"
        yield steps, Measured(what=what, times=times, seconds=each, flops=counted)


def _there(kind: type[Method[Any]], need: Need[Any], found: Any) -> Any:
    """What a method needs.

    Raises:
        UserError: it is not there yet.
    """
    if found is None:
        raise UserError(
            f"plan: what {kind.title} needs ({need.key}) is not there yet (the run would make it first), so that no "
            f"step can be tried: make it first, see ddbench {need.key} --help, then plan again"
        )
    return found


def _left(out: Path, method: Method[Any]) -> list[range]:
    """The steps that are left, piece by piece: a checkpoint has the first ones, other processes left what they did."""
    pieces = method.pieces() or (range(method.iterations),)
    if begun(out):
        return steps_left(out, pieces)
    path, done = out / CHECKPOINT, 0
    if path.exists():
        with open_tensors(path, CHECKPOINT_KIND, 1) as (_, header):
            told = header.get("done", 0)
            done = told if isinstance(told, int) else 0
    return [range(max(done, steps.start), steps.stop) for steps in pieces if steps.stop > done]


def _left_out(settings: RunSettings) -> list[str]:
    return ["without the validations (--validate-every)"] if settings.validate_every else []
