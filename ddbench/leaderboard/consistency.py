"""What a row says twice must agree: a protocol with its settings and hash, DD-Ranking's scores with their accuracies.

Imports no torch.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ddbench.evaluation.ddranking.definitions import SCORES, Accuracies, repeat_scores, summary
from ddbench.leaderboard.result import ProtocolInfo, Scores, SynsetInfo, TaskInfo
from ddbench.modalities import IMAGE, Modality, modality
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json
from ddbench.statistics import Statistics, summarise

TOLERANCE = 1e-9


def protocol_of(entry: ProtocolInfo, where: str, kind: str = IMAGE) -> Any:
    """The protocol that a row was evaluated under, from the row alone: its name, settings and hash.

    Args:
        entry: ``protocol`` of a row.
        kind: modality of its synset.

    Raises:
        UserError: a setting that no protocol has or whose value is out of range, a hash that is not that of the
            settings, the name of a protocol whose settings are others, or alterations that are not told.
    """
    try:
        return _protocol_of(canonical_json(entry.to_json()), kind)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


@functools.lru_cache(maxsize=256)
def _protocol_of(text: str, kind: str) -> Any:
    entry = ProtocolInfo(**json.loads(text))
    name, settings, difference, own = entry.name, entry.settings, entry.changed, modality(kind)
    try:
        made = own.protocol_from(name, settings)
    except UserError as error:
        raise UserError(f"protocol.settings: {error}") from None
    found = {**dict.fromkeys(own.later, 0.0), **made.settings()}
    odd = next((key for key, value in settings.items() if key not in found or found[key] != value), None)
    if odd is not None:
        raise UserError(f"protocol.settings: {odd} {str(settings[odd])[:40]!a} is no value of that setting")
    if made.hash != entry.hash:
        raise UserError(f"protocol.hash {entry.hash} is not that of its settings ({made.hash}): evaluate again")
    if entry.standard != (not difference):
        raise UserError("protocol.standard does not fit protocol.changed: a standard evaluation alters nothing")
    _check_base(own, name, found, difference)
    return made


def _check_base(own: Modality, name: str, found: Mapping[str, Any], difference: Mapping[str, Any]) -> None:
    """A known name stands for its own settings, but for those that are told as changed."""
    told = {key: value for key, value in difference.items() if key in own.setting_names}
    wrong = next((key for key, value in told.items() if found[key] != value), None)
    standard = own.standard(name)
    if wrong is None and standard is not None:
        base = {**dict.fromkeys(own.later, 0.0), **standard.settings()}
        wrong = next((key for key, value in found.items() if base[key] != value and key not in told), None)
    if wrong is not None:
        raise UserError(
            f"protocol.settings: {wrong} is {str(found[wrong])[:40]}, which is not {name} with what protocol.changed "
            "tells: the row is of another protocol"
        )


def check_label_kind(said: SynsetInfo, protocol: Any, where: str) -> None:
    """See that a synset's kind of labels, by which tables are made, is one that students learn under the protocol.

    Raises:
        UserError: it is none.
    """
    own = modality(said.modality)
    kinds = sorted({own.label_kind(protocol, kind) for kind in own.label_kinds})
    if said.label_kind not in kinds:
        raise UserError(
            f"{where}: synset.label_kind is {said.label_kind!r:.60}, but under protocol {protocol.name} students learn "
            f"labels of the kind {' or '.join(kinds)}; evaluate and submit again"
        )


def check_scores(scores: Scores, where: str) -> None:
    """Compute DD-Ranking's scores and their statistics anew from the accuracies.

    Raises:
        UserError: they are others, or a seed is there twice.
    """
    if not same(scores.summary, score_summary([repeat.accuracies for repeat in scores.repeats], scores.weight)):
        raise UserError(f"{where}: scores.summary does not follow from scores.repeats; run `ddbench submit` again")
    seeds = [repeat.seed for repeat in scores.repeats]
    if len(set(seeds)) != len(seeds):
        raise UserError(f"{where}: scores.repeats has a seed twice")


def check_task(task: TaskInfo, where: str) -> None:
    """See that a task's summary follows from its units, where it has any, and that every number is one that can be.

    Raises:
        UserError: a unit is there twice, a metric that is not described, a value out of range, or another summary.
    """
    units = [one.unit for one in task.units]
    if len(set(units)) != len(units):
        raise UserError(f"{where}: a unit is there twice")
    if task.summary.keys() != task.metrics.keys():
        raise UserError(f"{where}: the summary has other metrics than are described")
    for one in task.units:
        for metric, value in one.metrics.items():
            if metric not in task.metrics:
                raise UserError(f"{where}: metric {metric!r:.80} is not described")
            _check_range(task, metric, value, where)
    for metric, entry in task.summary.items():
        _check_range(task, metric, entry["mean"], where)
        if not task.is_stated(metric):
            if not same(entry, summarise(list(task.values(metric).values()))):
                raise UserError(f"{where}: the summary of {metric} does not follow from the units; submit again")
            continue
        low, high = entry["low"], entry["high"]
        if entry["std"] is not None or low is None or high is None or low > high:
            raise UserError(f"{where}: {metric} has neither units nor a stated interval; submit again")
        for end in (low, high):
            _check_range(task, metric, end, where)


def _check_range(task: TaskInfo, metric: str, value: float, where: str) -> None:
    if task.metrics[metric].unit == "fraction" and not 0 <= value <= 1:
        raise UserError(f"{where}: {metric} {value} is not a fraction between 0 and 1")


def score_summary(repeats: Sequence[Accuracies], weight: float) -> dict[str, Statistics]:
    """Statistics of HLR, IOR, A1, A0, LRS and ARS over repeats."""
    table = summary([repeat_scores(repeat, weight) for repeat in repeats])
    return {name: table[name] for name in SCORES}


def same(found: Any, expected: Any) -> bool:
    """Whether two trees of tables are the same: numbers up to rounding, everything else exactly."""
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(same(found[name], part) for name, part in expected.items())
        )
    if isinstance(expected, float) and isinstance(found, int | float) and not isinstance(found, bool):
        return math.isclose(found, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    if isinstance(expected, int) and not isinstance(expected, bool):
        return isinstance(found, int | float) and not isinstance(found, bool) and found == expected
    return type(found) is type(expected) and bool(found == expected)
