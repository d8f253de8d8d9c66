"""``ddbench relabel``: a teacher's labels of every view of a synset, stored for replay."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import tyro

from ddbench.cli.parse import parse
from ddbench.cli.settings import data_flag
from ddbench.protocols.start import Asked, Relabelled, relabel


@dataclass(frozen=True, kw_only=True)
class Args(Asked):
    """Store a teacher's logits of every augmented view of a synset, epoch by epoch (FKD), for students to replay."""

    run: tyro.conf.Positional[Path]
    """A run folder, or a synset file."""


EXAMPLES = """  ddbench relabel runs/digits-ipc10-random-s0
  ddbench relabel runs/digits-ipc10-random-s0 --teacher teachers/digits/convnet-d1-w128-bn/1f0c2a4b5d6e.safetensors
  ddbench relabel runs/digits-ipc10-random-s0 --teacher-student convnet-d1-w32-bn --epochs 50 --out 50.safetensors
  ddbench relabel synset.safetensors --protocol my-protocol.toml"""


def main(argv: list[str]) -> None:
    """Run the verb."""
    args = parse(Args, argv, "ddbench relabel", str(Args.__doc__), EXAMPLES)
    made = relabel(args.run, args)
    stored, size = made.stored, made.plan.synset.image_bytes
    print(
        f"labels of {stored.epochs} epochs x {stored.images} images x {stored.classes} classes by "
        f"{stored.teacher.get('student')}: {stored.bytes / 1e6:.2f} MB, {stored.bytes / size:.3g} x the images' bytes"
    )
    print(f"labels: {stored.path}")
    print(f"next: {_next(args, made)}")


def _next(args: Args, made: Relabelled) -> str:
    """The command that uses the labels."""
    name, advice, stored = args.protocol, "", made.stored
    if made.plan.protocol.labels != "stored" and name.endswith(".toml"):
        advice = f', after putting labels = "stored" into {name}'
    elif made.plan.protocol.labels != "stored":
        advice = f', where FILE.toml says name = "{name}-stored", base = "{name}" and labels = "stored"'
        name = "FILE.toml"
    where = "" if made.beside else f" --labels {shlex.quote(str(stored.path))}"
    fewer = f" --epochs {stored.epochs}" if stored.epochs < made.plan.epochs else ""
    more = f"{where}{fewer}{data_flag(args.data)}{advice}"
    return f"ddbench evaluate {shlex.quote(str(args.run))} --protocol {shlex.quote(name)}{more}"
