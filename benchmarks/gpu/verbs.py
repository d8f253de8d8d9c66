"""The command lines of the smoke run: every verb that computes, and every protocol for images, small and on digits."""

from __future__ import annotations

from benchmarks.gpu.world import TINY, has_diffusers

NORMED = "convnet-d1-w4-bn"
WORDS = {
    "{buffer}": "buffer --dataset digits --batch 256 {alone}",
    "{teacher}": f"teacher --dataset digits --student {NORMED} --epochs 2 {{eager}}",
    "{distill}": f"distill --dataset digits --ipc 2 --student {TINY} --recipe none {{eager}}",
    "{experts}": "--buffers {at}/buffers {steps}",
    "{steps}": "--student-steps 2 --expert-epochs 1 --max-start-epoch 2 --lr-images 10 --iterations 2",
    "{classes}": "--orders 1 --steps 2 --memory 20 --against random",
    "{many}": f"--students {TINY} --epochs 2 {{alone}}",
    "{once}": f"--students {TINY} {{short}}",
    "{short}": "--seeds 1 --epochs 2 {alone}",
    "{alone}": "--workers 1 {eager}",
    "{eager}": "--device {device} --threads 1 --quiet --compile off",
    "{tiny}": TINY,
    "{normed}": NORMED,
}
"""What the lines have in common, by its place in them, outer ones first; ``{at}`` and ``{device}`` are the run's."""

LINES = """
buffer                | {buffer} --student {tiny} --experts 2 --epochs 4 --lr 0.02 --buffers {at}/buffers
buffer at once        | {buffer} --student {tiny} --experts 2 --epochs 2 --at-once 2 --buffers {at}/once
buffer gsam           | {buffer} --student {normed} --experts 1 --epochs 1 --kind gsam --buffers {at}/flat
buffer smooth         | {buffer} --student {normed} --experts 1 --epochs 1 --kind smooth --buffers {at}/even
teacher               | {teacher} --teachers {at}/teachers
teacher curvature     | {teacher} --teachers {at}/curved --penalty curvature
teacher loss-gap      | {teacher} --teachers {at}/gap --penalty loss-gap
distill               | {distill} --out {at}/run --method mtt {experts} --validate-every 1 --validate-epochs 2
distill random        | {distill} --out {at}/random --method random
distill soft          | {distill} --out {at}/soft --method expertlabels --buffers {at}/buffers
distill dd            | {distill} --out {at}/dd --method dd --iterations 2 --batches 1 --epochs 2 --batch-real 64
distill pdd           | {distill} --out {at}/pdd --method pdd {experts} --stages 2 --stage-epochs 2
distill zca           | {distill} --out {at}/zca --method dm --iterations 2 --preprocess zca
evaluate              | evaluate {at}/run --students {tiny} --seeds 2 --epochs 20 {alone}
evaluate at once      | evaluate {at}/run --at-once 2 --seeds 2 --out {at}/once.json {many}
evaluate bfloat16     | evaluate {at}/run --precision bfloat16 --out {at}/half.json {once}
evaluate search       | evaluate {at}/run --lr-source search --out {at}/search.json {once}
evaluate calibration  | evaluate {at}/run --calibration --keep-weights --out {at}/calibration.json {once}
evaluate robustness   | evaluate {at}/run --robustness quick --max-images 20 --out {at}/robustness.json {once}
evaluate corruptions  | evaluate {at}/run --corruptions --max-images 20 --out {at}/corruptions.json {once}
evaluate outliers     | evaluate {at}/run --ood noise --max-images 20 --out {at}/outliers.json {once}
relabel               | relabel {at}/random --teacher-student {normed} --teachers {at}/teachers --epochs 2 {eager}
scores                | scores {at}/run --student {tiny} --repeats 2 --epochs 2 {alone}
task transfer         | task transfer {at}/run --student {tiny} --finetune-epochs 1 --parts 2 --out {at}/t.json {short}
task continual        | task continual {at}/run --student {tiny} {classes} --out {at}/c.json {short}
task membership       | task membership {at}/random --student {tiny} --shadows 4 --images 100 --out {at}/m.json {short}
task nas              | task nas {at}/run --nets 4 --widest 32 --real-epochs 1 --out {at}/n.json {short}
export                | export {at}/run --format npz --out {at}/exported
info                  | info {at}/run
leaderboard           | leaderboard build --leaderboard {at}
"""
DIFFUSION = "diffusion train --dataset digits --steps 4 --widths 8 8 --diffusions {at}/models --device {device} --quiet"

RUNS = {"mtt": "distill", "dd-recipe": "distill dd", "pdd": "distill pdd", "soft-v1": "distill soft"}
"""Protocol -> the line that makes a synset for it; others take random images."""

BEFORE = {
    "distill": ("buffer",),
    "distill soft": ("buffer",),
    "distill pdd": ("buffer",),
    "relabel": ("distill random", "teacher"),
    "task membership": ("distill random",),
    **dict.fromkeys(("scores", "task transfer", "task continual", "task nas", "export", "info"), ("distill",)),
}
"""Line -> lines whose products it takes; of ``evaluate`` see :func:`before`."""


def commands() -> list[tuple[str, list[str]]]:
    """Name and words of each line, with ``{at}`` and ``{device}`` in them."""
    pairs = [[part.strip() for part in line.split("|")] for line in LINES.strip().splitlines()]
    pairs += [["diffusion train", DIFFUSION]] if has_diffusers() else []
    return [(name, _filled(line).split()) for name, line in pairs]


def protocols() -> list[tuple[str, list[str]]]:
    """Two epochs of every protocol for images, on a synset that it is for."""
    from ddbench.protocols.protocol import PROTOCOLS

    made = {name: words[words.index("--out") + 1] for name, words in commands() if name.startswith("distill")}
    lines = []
    for name in PROTOCOLS:
        epochs = "" if name == "dd-recipe" else "--epochs 2"
        line = f"evaluate {made[RUNS.get(name, 'distill random')]} --protocol {name} --students {{normed}} --seeds 1"
        student = line.replace("{normed}", "{tiny}") if name == "dd-recipe" else line
        lines.append((f"evaluate {name}", _filled(f"{student} {epochs} --teachers {{at}}/teachers {{alone}}").split()))
    return lines


def before(name: str) -> tuple[str, ...]:
    """Lines whose products a line takes."""
    verb, _, rest = name.partition(" ")
    if verb != "evaluate":
        return BEFORE.get(name, ())
    if name in dict(commands()):
        return ("distill",)
    return (RUNS.get(rest, "distill random"), "teacher", "relabel")


def _filled(line: str) -> str:
    for place, words in WORDS.items():
        line = line.replace(place, words)
    return line
