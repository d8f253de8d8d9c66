"""The method files that ``hostile.py`` gives: none, or one that gives what a method must not give."""

from __future__ import annotations

METHOD = """from dataclasses import dataclass
from ddbench.methods.base import Distilled, Method, State

@dataclass(frozen=True, kw_only=True)
class MineConfig:
    steps: int = 2

class Mine(Method[MineConfig]):
    config_class = MineConfig
    title = "Mine"
    iterations = 2

    def setup(self):
        self.images = self.context.preprocess.apply(self.context.random_images("mine"))

    def step(self, iteration):
        return {"loss": 1.0}

    def distilled(self):
        return Distilled(images=self.images, labels=self.context.hard_labels())

    def state(self):
        return State(tensors={"images": self.images})

    def load_state(self, state):
        self.images = state.tensors["images"]
"""


def method_files() -> list[tuple[str, bytes]]:
    """Files that are no method, or one that gives what a method must not give."""

    def other(old: str, new: str) -> bytes:
        assert old in METHOD
        return METHOD.replace(old, new).encode()

    labels = "labels=self.context.hard_labels()"
    return [
        ("a mistake of syntax", METHOD.encode() + b"\ndef (:\n"),
        ("an error at import", METHOD.encode() + b"\n1 / 0\n"),
        ("an end at import", METHOD.encode() + b"\nraise SystemExit(0)\n"),
        ("an import that is missing", b"import no_such_module\n" + METHOD.encode()),
        ("no class", b"x = 1\n"),
        ("a class that is no method", b"class Mine:\n    pass\n"),
        ("two classes", METHOD.encode() + METHOD.replace("class Mine(", "class Mine2(").encode()),
        ("an unknown coding", b"# coding: nothing\n" + METHOD.encode()),
        ("a zero byte", METHOD.encode() + b"\0"),
        ("no config", other("    config_class = MineConfig\n", "")),
        ("a config that is no dataclass", other("@dataclass(frozen=True, kw_only=True)\n", "")),
        ("a config that can be changed", other("frozen=True, ", "")),
        ("a config with a default that is no int", other("steps: int = 2", 'steps: int = "x"')),
        ("a config of a type that is no flag", other("steps: int = 2", "steps: object = None")),
        ("no title", other('    title = "Mine"\n', "")),
        ("a title of megabytes", other('"Mine"', '"Mine" * 10**6')),
        ("negative iterations", other("iterations = 2", "iterations = -2")),
        ("iterations of text", other("iterations = 2", 'iterations = "two"')),
        ("metrics that are none", other('return {"loss": 1.0}', "return None")),
        ("metrics of NaN", other('{"loss": 1.0}', '{"loss": float("nan")}')),
        ("metrics of tensors", other('{"loss": 1.0}', '{"loss": self.images}')),
        ("images of NaN", other("images=self.images, ", "images=self.images * float('nan'), ")),
        ("images of another shape", other("images=self.images, ", "images=self.images[:, :, :4], ")),
        ("images of another type", other("images=self.images, ", "images=self.images.double(), ")),
        ("images that are too few", other("images=self.images, ", "images=self.images[:3], ")),
        ("no images", other("images=self.images, ", "images=self.images[:0], ")),
        ("labels out of range", other(labels, "labels=self.context.hard_labels() + 100")),
        ("labels of floats", other(labels, "labels=self.context.hard_labels().float()")),
        ("labels that are none", other(labels, "labels=None")),
        ("a state that is none", other('State(tensors={"images": self.images})', "None")),
        ("a state of numbers", other('tensors={"images": self.images}', 'tensors={"images": 1}')),
        ("a product that is none", other(f"return Distilled(images=self.images, {labels})", "return None")),
    ]
