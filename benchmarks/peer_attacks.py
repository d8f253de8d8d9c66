"""``--robustness full`` of one student against torchattacks and pyautoattack: CPU seconds of both in one run.

    pip install --no-deps torchattacks==3.5.1 pyautoattack==0.2.0
    python benchmarks/peer_attacks.py --write

The same attacks on the same images of the digits and the same student (the same module), attack by attack, the two in
turn, one thread. AutoAttack and Square are pyautoattack's on both sides; ddbench's C&W and DeepFool are foolbox's.
torchattacks attacks every image, and its C&W searches no constant: a user who wants the smallest perturbation calls it
once a constant, here as often as ``full`` tries one. It has its own random starts.

*Same verdict* is the share of the images that are right after the attack on both sides or on neither.

The second table is the floor of what is shared: CPU seconds of the network's own passes within pyautoattack. Whoever
makes the same passes by the same network can't be faster than those.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import common

STUDENT, EPOCHS, BATCH = "convnet-d2-w32-in", 10, 128
CONSTANTS = (0.1, 0.3, 1.0, 3.0, 10.0)
BOUND = 0.5
SHARED = ("autoattack", "square")


@dataclass(frozen=True)
class Measured:
    """One attack of the budget.

    Attributes:
        seconds: CPU seconds, the library's and ours.
        passes: of them in the network.
        right: share of images that are right after it.
        same: share of images of which both say the same.
    """

    name: str
    library: str
    seconds: tuple[float, float]
    passes: tuple[float, float]
    right: tuple[float, float]
    same: float


def table(rows: Sequence[Measured], images: int) -> list[str]:
    """The lines of the document."""
    lines = [
        f"`{STUDENT}` on the digits, {images} images, one thread; CPU seconds, one run.",
        "",
        "| attack | library | library, CPU s | ddbench | ratio | right after it, library | ddbench | same verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        seconds = f"{row.seconds[0]:.2f} | {row.seconds[1]:.2f} | {row.seconds[1] / row.seconds[0]:.2f}"
        right = f"{row.right[0]:.3f} | {row.right[1]:.3f} | {row.same:.3f}"
        lines.append(f"| {row.name} | {row.library} | {seconds} | {right} |")
    own = [row for row in rows if not row.name.startswith(SHARED)]
    shared = [row for row in rows if row.name.startswith(SHARED)]
    lines += ["", "| CPU s | libraries | of them in the network | ddbench | ratio | floor | bound |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, part in (("torchattacks", own), ("pyautoattack", shared), ("together", rows)):
        if not part:  # --attacks named none of them
            continue
        peer, ours = (sum(row.seconds[side] for row in part) for side in (0, 1))
        inside = sum(row.passes[0] for row in part)
        floor = f"{sum(row.passes[1] for row in part) / peer:.2f}"
        bound = f"{BOUND}" if name == "together" else "–"
        lines.append(f"| {name} | {peer:.1f} | {inside:.1f} | {ours:.1f} | {ours / peer:.2f} | {floor} | {bound} |")
    lines += [
        "",
        "Floor: ddbench's seconds in the network's passes, forward and backward, over all of the libraries'.",
    ]
    return lines


@contextmanager
def clock(model: Any) -> Iterator[list[float]]:
    """A list of one number: CPU seconds of the model's forward passes and of torch's backward passes, which grows."""
    import torch

    spent = [0.0]

    def timed(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            begin = time.process_time()
            try:
                return work(*given, **more)
            finally:
                spent[0] += time.process_time() - begin

        return call

    forward, grad, backward = model.forward, torch.autograd.grad, torch.autograd.backward
    model.forward = timed(forward)
    torch.autograd.grad, torch.autograd.backward = timed(grad), timed(backward)  # type: ignore[assignment]
    try:
        yield spent
    finally:
        del model.forward
        torch.autograd.grad, torch.autograd.backward = grad, backward


def peer(attack: Any, seed: int) -> tuple[str, Callable[[Any, Any, Any], Any]]:
    """The library of an attack, and the attack: model, pixels in [0, 1] and classes -> images."""
    import torch
    import torchattacks
    from pyautoattack import AutoAttack

    eps, step = attack.eps / 255, attack.step / 255

    def auto(model: Any, x: Any, y: Any) -> Any:
        names = ["square"] if attack.kind == "square" else ["apgd-ce", "apgd-t", "fab-t", "square"]
        made = AutoAttack(model, attacks=names, eps=eps, seed=seed, version="custom")
        made.apgd.n_restarts = 1  # with these its "standard", which takes no list of attacks
        return made.run_standard_evaluation(x, y, batch_size=250)[0]

    def smallest(model: Any, x: Any, y: Any) -> Any:
        best, length = x.clone(), torch.full((len(x),), torch.inf)
        for constant in CONSTANTS:
            adv = torchattacks.CW(model, c=constant, steps=attack.steps, lr=attack.step)(x, y)
            norm = (adv - x).flatten(1).norm(dim=1)
            shorter = (model(adv).argmax(1) != y) & (norm < length)
            best[shorter], length[shorter] = adv[shorter], norm[shorter]
        return best

    def ascent(model: Any, x: Any, y: Any) -> Any:
        if attack.kind == "fgsm":
            return torchattacks.FGSM(model, eps=eps)(x, y)
        kind = torchattacks.PGDL2 if attack.norm == "l2" else torchattacks.PGD
        return kind(model, eps=eps, alpha=step, steps=attack.steps, random_start=attack.random_start)(x, y)

    def deepfool(model: Any, x: Any, y: Any) -> Any:
        return torchattacks.DeepFool(model, steps=attack.steps)(x, y)

    if attack.kind in SHARED:
        return "pyautoattack", auto
    return "torchattacks", {"cw": smallest, "deepfool": deepfool}.get(attack.kind, ascent)


def measure(student: Any, names: Sequence[str] = ()) -> list[Measured]:
    """Every attack of the budget ``full`` on both sides, or those that are named.

    Args:
        student: a :class:`ddbench.measurements.suite.Trained`.
    """
    import torch

    from ddbench.measurements.robustness.attack_probes import AttackProbe
    from ddbench.measurements.robustness.budgets import budget
    from ddbench.measurements.trained import measure as ours

    x, y = student.test.images.float() / 255, student.test.labels
    model, found = student.model, []
    for attack in budget("full", *x.shape[1:3]).attacks:
        if names and attack.name not in names:
            continue
        library, run = peer(attack, student.seed)
        torch.manual_seed(student.seed)
        with clock(model) as spent:
            begin = time.process_time()
            adv = run(model, x, y)
            with torch.no_grad():
                theirs = model(adv).argmax(1) == y
            between, inside = time.process_time(), spent[0]
            own = torch.as_tensor(ours(student, AttackProbe(attack=attack, classes=10)).bits["correct"])
            after = time.process_time()
        found.append(
            Measured(
                name=attack.name,
                library=library,
                seconds=(between - begin, after - between),
                passes=(inside, spent[0] - inside),
                right=(float(theirs.float().mean()), float(own.float().mean())),
                same=float((theirs == own).float().mean()),
            )
        )
    return found


def learned(images: int) -> Any:
    """A student of the whole training set of the digits, as the probes get it, and so many test images."""
    from types import SimpleNamespace

    import torch

    from ddbench.data.load import load_dataset
    from ddbench.data.preprocess import fit_preprocess
    from ddbench.measurements.suite import Trained
    from ddbench.measurements.trained import PixelModel, balanced
    from ddbench.networks.build import build_student
    from ddbench.training.loops import inputs_of, train
    from ddbench.training.optimizers import OptimizerSettings

    dataset, cpu = load_dataset("digits", None), torch.device("cpu")
    preprocess = fit_preprocess(dataset, "meanstd")
    net = build_student(STUDENT, channels=1, size=8, classes=10, seed=0)
    inputs, settings = inputs_of(dataset.train, preprocess, cpu), OptimizerSettings(lr=0.02, momentum=0.9)
    for _ in train(net, inputs, epochs=EPOCHS, batch=BATCH, optimizer=settings, policy=None, seed=0):
        pass
    test = balanced(dataset.test, images, 10)
    model = PixelModel(net, preprocess).eval().requires_grad_(False)
    return Trained(
        student=STUDENT,
        seed=0,
        model=model,
        logits=lambda pixels: model(pixels.float() / 255),
        test=test,
        held_out=test,
        held_out_unseen=False,
        plan=SimpleNamespace(synset=SimpleNamespace(classes=10)),  # type: ignore[arg-type]
        device=cpu,
    )


def main() -> None:
    """Print the table."""
    parser = common.parser((__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--attacks", nargs="*", default=(), help="some attacks only, by name")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    from ddbench.runtime import device

    device.prepare(1)
    student = learned(options.images)
    measure(student, ("fgsm-linf-8", "deepfool"))  # imports of both sides
    rows = measure(student, options.attacks)
    lines = table(rows, options.images)
    common.report(__file__, "Attacks: torchattacks, pyautoattack and ours", lines, common.command(__file__))


if __name__ == "__main__":
    main()
