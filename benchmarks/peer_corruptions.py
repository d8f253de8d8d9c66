"""``--corruptions`` of one student against the script that made CIFAR-10-C: CPU seconds of both in one run.

    python benchmarks/peer_corruptions.py make_cifar_c.py --dataset folder:PATH --write

Both sides corrupt the same images in every type but frost at every severity, and the same student classifies them in
batches of the same size; ours makes the images anew, as for the first student of a data folder. The script and its
libraries are those of ``corruption_agreement.py``. The two take turns within a type; one thread.

The accuracies differ by the draws alone: *same verdict* is the share of corrupted images that the student classifies
rightly on both sides or on neither.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
from corruption_agreement import theirs

STUDENT, TRAINED_ON, EPOCHS, BATCH = "convnet-d3-w32-in", 1000, 10, 100
BOUND = 0.5


@dataclass(frozen=True)
class Measured:
    """One type of corruption, all severities.

    Attributes:
        made, classified: CPU seconds of the images and of the student; the script's, then ours.
        accuracy: the script's, then ours.
        same: share of images of which both say the same.
    """

    name: str
    made: tuple[float, float]
    classified: tuple[float, float]
    accuracy: tuple[float, float]
    same: float


def table(rows: Sequence[Measured], images: int) -> list[str]:
    """The lines of the document."""
    lines = [
        f"`{STUDENT}`, {images} images of 32 pixels, five severities, one thread; CPU seconds, one run.",
        "",
        "| type | images, script | images, ddbench | ratio | accuracy, script | ddbench | same verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        times = f"{row.made[0]:.2f} | {row.made[1]:.2f} | {row.made[1] / row.made[0]:.2f}"
        lines.append(f"| {row.name} | {times} | {row.accuracy[0]:.3f} | {row.accuracy[1]:.3f} | {row.same:.3f} |")
    made, classified = ([sum(one) for one in zip(*found, strict=True)] for found in sums(rows))
    whole = [sum(both) for both in zip(made, classified, strict=True)]
    lines += ["", "| CPU s | script | ddbench | ratio | bound |", "|---|---|---|---|---|"]
    for name, (peer, own) in (("images", made), ("the student", classified), ("together", whole)):
        bound = f"{BOUND}" if name == "together" else "–"
        lines.append(f"| {name} | {peer:.1f} | {own:.1f} | {own / peer:.2f} | {bound} |")
    return lines


def sums(rows: Sequence[Measured]) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Seconds of the images, and of the student, of all types."""
    return [row.made for row in rows], [row.classified for row in rows]


def learned(dataset: Any) -> Callable[[Any], Any]:
    """Classes that a student trained on some of the real images gives to uint8 images ``(N, C, H, W)``."""
    import torch

    from ddbench.data.dataset import Split
    from ddbench.data.preprocess import fit_preprocess
    from ddbench.measurements.trained import balanced
    from ddbench.networks.build import build_student
    from ddbench.training.loops import inputs_of, predict, train
    from ddbench.training.optimizers import OptimizerSettings

    preprocess = fit_preprocess(dataset, "meanstd")
    net = build_student(STUDENT, channels=3, size=32, classes=dataset.spec.classes, seed=0)
    known = balanced(dataset.train, TRAINED_ON, dataset.spec.classes)
    inputs = inputs_of(known, preprocess, torch.device("cpu"))
    settings = OptimizerSettings(lr=0.02, momentum=0.9)
    for _ in train(net, inputs, epochs=EPOCHS, batch=BATCH, optimizer=settings, policy=None, seed=0):
        pass

    def classes(pixels: Any) -> Any:
        images = Split(torch.as_tensor(pixels), torch.zeros(len(pixels), dtype=torch.int64))
        return predict(net, inputs_of(images, preprocess, torch.device("cpu"))).argmax(1)

    return classes


def measure(authors: Any, images: Any, labels: Any, classes: Callable[[Any], Any]) -> list[Measured]:
    """Every type on both sides.

    Args:
        images: uint8 ``(N, 3, 32, 32)``, a tensor.
        labels: ``(N,)``.
    """
    import numpy as np
    import torch
    from PIL import Image

    from ddbench.measurements.corruption_types import SEVERITIES, TYPES
    from ddbench.measurements.corruptions import corrupted

    pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in images.numpy()]
    found = []
    for name, change in ((name, getattr(authors, name)) for name in TYPES):
        before = time.process_time()
        made = [[np.uint8(change(picture, severity)) for picture in pictures] for severity in SEVERITIES]
        other = torch.from_numpy(np.stack([np.stack(one).transpose(0, 3, 1, 2) for one in made]))
        between = time.process_time()
        own = corrupted(images, name, None)
        after = time.process_time()
        rights, seconds = [], []
        for side in (other, own):
            begin = time.process_time()
            rights.append(torch.stack([classes(one) == labels for one in side]))
            seconds.append(time.process_time() - begin)
        accuracy = [float(right.float().mean()) for right in rights]
        found.append(
            Measured(
                name=name,
                made=(between - before, after - between),
                classified=(seconds[0], seconds[1]),
                accuracy=(accuracy[0], accuracy[1]),
                same=float((rights[0] == rights[1]).float().mean()),
            )
        )
    return found


def main() -> None:
    """Print the table."""
    parser = common.parser((__doc__ or "").split("\n")[0])
    parser.add_argument("script", type=Path, help="make_cifar_c.py of github.com/hendrycks/robustness")
    parser.add_argument("--dataset", default="cifar10", help="colour images of 32 px, such as folder:PATH")
    parser.add_argument("--data", type=Path, help="folder with the datasets")
    parser.add_argument("--images", type=int, default=100)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    import numpy as np

    from ddbench.data.load import load_dataset
    from ddbench.measurements.trained import balanced
    from ddbench.runtime import device

    device.prepare(1)
    dataset = load_dataset(options.dataset, options.data, size=32)
    test = balanced(dataset.test, options.images, dataset.spec.classes)
    authors, classes = theirs(options.script), learned(dataset)
    np.random.seed(0)  # noqa: NPY002 - the authors' script draws from it
    measure(authors, test.images[:2], test.labels[:2], classes)  # imports and caches of both sides
    lines = table(measure(authors, test.images, test.labels, classes), len(test))
    command = f"python benchmarks/peer_corruptions.py make_cifar_c.py --dataset folder:PATH --images {options.images}"
    common.report(__file__, "Corruptions: the script of CIFAR-10-C and ours", lines, command)


if __name__ == "__main__":
    main()
