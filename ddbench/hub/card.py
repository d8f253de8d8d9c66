"""The card of an exported synset: what it is, how it is loaded, what it scored. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddbench.decoders.base import read_decoder
from ddbench.evaluation.result import Evaluation
from ddbench.hub import DATA, INFO, LABELS, PREVIEW
from ddbench.leaderboard.coverage import Checked
from ddbench.leaderboard.pages.markdown import escape
from ddbench.leaderboard.result import Result
from ddbench.methods import METHODS, distilled_on, facts_of
from ddbench.methods.facts import Facts
from ddbench.statistics import Statistics, interval_words

LONGEST = 300
"""Letters of a setting that are shown; all of it is in ``synset.json``."""

FORMS = {
    "hard": "the class of each image",
    "soft": "`soft_label`: logits (a softmax over them is the target); `label`: the largest",
    "targets": "`soft_label`: targets of a regression, no logits; `label`: the largest",
}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a synset stands on a board: a row, what its verification says, its rank by each student; None: none."""

    result: Result
    checked: Checked | None
    ranks: Mapping[str, int | None]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a card tells of.

    Attributes:
        info: the content of ``synset.json``.
        evaluations: of the run.
        places: on the board.
        preview: whether there is a picture beside it.
        protocol: the one that fits the synset.
    """

    info: dict[str, Any]
    evaluations: Sequence[Evaluation]
    places: Sequence[Place]
    preview: bool
    protocol: str

    @property
    def header(self) -> dict[str, Any]:
        """The header of the synset."""
        found: dict[str, Any] = self.info["synset"]
        return found

    @property
    def facts(self) -> Facts | None:
        """Of its method, where that is known here."""
        name = self.header["method"]
        return facts_of(name) if name in METHODS else None

    @property
    def title(self) -> str:
        """Method, dataset and budget."""
        method = self.facts.title if self.facts else self.header["method"]
        budget = self.header["budget"]
        plural = "" if budget["value"] == 1 else "s"
        size = f"{budget['value']} image{plural} per class" if budget["unit"] == "ipc" else "all images"
        return f"{method} on {self.header['dataset']}, {size}"


def card(subject: Subject) -> str:
    """The text of ``README.md``: the block that ``datasets`` reads, then the card; the same subject, the same text."""
    parts = [_block(subject), _head(subject), _loading(subject), _table(subject), _scores(subject), _board(subject)]
    return "\n\n".join("\n".join(part) for part in map(list, parts) if part) + "\n"


def _block(subject: Subject) -> Iterator[str]:
    yield "---"
    yield f"pretty_name: {json.dumps(subject.title, ensure_ascii=False)}"
    yield "task_categories:\n- image-classification"
    yield "tags:\n- dataset-distillation\n- ddbench"
    yield "configs:"
    configs = [("default", DATA, True)] + ([(LABELS, LABELS, False)] if subject.info["labels"] else [])
    for name, folder, default in configs:
        yield f"- config_name: {name}"
        if default:
            yield "  default: true"
        yield f"  data_files:\n  - split: train\n    path: {folder}/train-*.parquet"
    yield "---"


def _head(subject: Subject) -> Iterator[str]:
    header, count = subject.header, subject.info["shape"][0]
    yield f"# {escape(subject.title)}"
    yield ""
    yield (
        f"A *synset*: {count} images that stand for the training set of {escape(header['dataset'])}. A network that is "
        "trained from scratch on them alone is tested on the real test set. Written by ddbench."
    )
    if subject.facts is not None and subject.facts.paper:
        facts = subject.facts
        yield ""
        yield f"Method: {escape(facts.paper)} ({escape(facts.citation)}), <{facts.address}>."
    if subject.preview:
        yield ""
        yield f"![A row a class]({PREVIEW})"


def _loading(subject: Subject) -> Iterator[str]:
    yield "## Use"
    yield ""
    yield "```python"
    yield "from datasets import load_dataset"
    yield ""
    yield 'rows = load_dataset("PLACE", split="train")  # this folder, or OWNER/NAME on the hub'
    if subject.info["labels"]:
        yield f'views = load_dataset("PLACE", "{LABELS}", split="train")  # a row a view: epoch, index, logits'
    yield "```"
    yield ""
    yield "With ddbench, which trains students by a fixed protocol and tests them (the same bytes of the synset):"
    yield ""
    yield "```"
    yield "ddbench pull OWNER/NAME --out runs/theirs      # or: ddbench import FOLDER --out runs/theirs"
    yield f"ddbench evaluate runs/theirs --protocol {subject.protocol}"
    yield "```"


def _table(subject: Subject) -> Iterator[str]:
    yield "## What it is"
    yield ""
    yield "| | |"
    yield "| --- | --- |"
    for name, text in _facts(subject):
        yield f"| {name} | {text} |"


def _facts(subject: Subject) -> Iterator[tuple[str, str]]:
    header, info = subject.header, subject.info
    count, *shape = info["shape"]
    yield "images", f"{count} of {' x '.join(map(str, shape))} (channels, height, width)"
    if header["space"] == "pixels":
        yield "stored as", "pixels, 8 bits, lossless"
        yield "what a network sees", f"the pixels in 0 to 1, then {_preprocess(header['preprocess'])}"
    else:
        yield "stored as", "network input, float32 (channels, height, width): no further preprocess"
        yield "preprocess behind it", _preprocess(header["preprocess"])
    yield "labels", FORMS[header["label_kind"]]
    if header["decoder"] is not None:
        decoder = read_decoder(Path("header"), header["decoder"])
        assert decoder is not None
        yield "decoder", decoder.described
    if header["patches"] > 1:
        yield "patches", f"{header['patches']} a side"
    yield "learned learning rate", _rate(info["lr"])
    yield "protocol that it is meant for", escape(subject.protocol)
    yield "dataset", f"{escape(header['dataset'])}, {len(header['class_names'])} classes"
    yield "data fingerprint", f"`{escape(header['dataset_fingerprint'])}`"
    yield "method", f"{escape(header['method'])}, seed {header['seed']}, augmentation {escape(header['augmentation'])}"
    yield "distilled on", escape(distilled_on(header["method"], header["student"]) or "no network")
    if header["teacher"] is not None:
        yield "teacher of its views", escape(header["teacher"].get("student", "")) or "not named"
    yield "settings", _short(header["config"])
    yield "synset file", f"{info['bytes']:,} bytes, sha256 `{info['sha256']}`"
    if info["labels"]:
        head, labels = info["labels"]["header"], info["labels"]
        yield (
            "stored labels of views",
            f"{head['epochs']} epochs x {head['images']} images x {head['classes']} classes, float16, "
            f"{labels['bytes']:,} bytes, sha256 `{labels['sha256']}`",
        )
    yield "everything else", f"`{INFO}`"


def _preprocess(found: dict[str, Any]) -> str:
    if found.get("kind") == "meanstd":
        mean, std = (", ".join(f"{one:.6g}" for one in found[name]) for name in ("mean", "std"))
        return f"less mean ({mean}), divided by std ({std})"
    return f"ZCA whitening of the training set (matrix sha256 `{escape(found.get('matrix_sha256', ''))}`)"


def _rate(lr: dict[str, Any] | None) -> str:
    if lr is None:
        return "none"
    values = lr["values"]
    shown = ", ".join(f"{value:.6g}" for value in values[:6]) + (", ..." if len(values) > 6 else "")
    return shown if len(values) == 1 else f"{len(values)} of them: {shown}"


def _short(config: dict[str, Any]) -> str:
    text = ", ".join(f"{name} {value}" for name, value in sorted(config.items()))
    return escape(text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ...") or "none"


def _scores(subject: Subject) -> Iterator[str]:
    if not subject.evaluations:
        return
    yield "## Measured"
    yield ""
    yield "Test accuracy in % of networks trained on it, mean of the seeds."
    yield ""
    yield "| protocol | student | accuracy | 95 % interval | seeds |"
    yield "| --- | --- | ---: | --- | ---: |"
    for one in subject.evaluations:
        name = _protocol(one.data["protocol"]["name"], one.standard, one.data["precision"])
        for student in one.students:
            entry = one.data["summary"][student].get("accuracy")
            if entry is not None:
                yield _score(name, student, entry, one.fixed)


def _protocol(name: str, standard: bool, precision: str) -> str:
    """A protocol, and what else sets numbers under its name apart: altered settings, another precision."""
    said = ("" if standard else "altered", "" if precision == "float32" else precision)
    return ", ".join(filter(None, (name, *said)))


def _score(name: str, student: str, entry: Statistics, fixed: bool) -> str:
    """The end of a line of a table; the runs of a fixed network are one, and have no interval."""
    words, seeds = ("", "one fixed network") if fixed else (interval_words(entry, 100, 2), str(entry["n"]))
    return f"| {escape(name)} | {escape(student)} | {100 * entry['mean']:.2f} | {words} | {seeds} |"


def _board(subject: Subject) -> Iterator[str]:
    if not subject.places:
        return
    yield "## On the leaderboard"
    yield ""
    yield "| row | rank | verified | protocol | student | accuracy | 95 % interval | seeds |"
    yield "| --- | ---: | --- | --- | --- | ---: | --- | ---: |"
    for place in subject.places:
        result = place.result
        for student in result.students:
            verified = place.checked.words if place.checked else "no"
            head = f"| `{result.id}` | {place.ranks.get(student) or ''} | {verified} "
            entry = result.statistics[student].get("accuracy")
            if entry is not None:
                name = _protocol(result.protocol.name, result.protocol.standard, result.precision)
                yield head + _score(name, student, entry, result.fixed)
