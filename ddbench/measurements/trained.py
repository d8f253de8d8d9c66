"""A trained student that is to be measured: the images for it, the network behind pixels, and the file it lies in while
probes are open.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ddbench.data.dataset import Dataset, Split, balanced, class_indices, holdout_split, take
from ddbench.data.preprocess import Preprocess
from ddbench.measurements.suite import Finding, Probe, Trained
from ddbench.networks.build import build_student
from ddbench.protocols.plan import Plan
from ddbench.protocols.training import Settings, split_to_test
from ddbench.runtime import device as devices
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import text_hash
from ddbench.runtime.tensors import open_tensors, write_tensors
from ddbench.training.loops import inputs_of, predict

HELD_OUT = 500
"""Real training images that a temperature is fitted on: so many, or one a class."""

WEIGHTS_KIND = "ddbench-student-weights"
WEIGHTS_SCHEMA = 1


def held_out_images(plan: Plan, dataset: Dataset) -> tuple[Split, bool]:
    """Real training images for fitting a temperature: class-balanced, :data:`HELD_OUT` or one a class.

    Where the synset's method kept some images back (``--holdout``) they are of those. Else they are of the training
    set, less the images that are in the synset as they are.

    Returns:
        The images (none for the whole training set as a synset), and whether neither the method nor the teacher that
        labels for the protocol saw them. Of the teacher behind stored labels that is not known.
    """
    synset, classes = plan.synset, plan.synset.classes
    fraction = synset.config.get("holdout")
    if synset.budget.unit == "all":
        return Split(dataset.train.images[:0], dataset.train.labels[:0]), False
    kept_back = fraction if isinstance(fraction, float) and 0 < fraction <= 0.9 else None
    if kept_back is None:
        source, unseen = dataset.train, False
    else:
        _, source = holdout_split(dataset.train, kept_back, classes, dataset.root)
        unseen = plan.stored is None and (plan.teacher is None or plan.teacher.holdout == kept_back)
    known = set() if kept_back else {image.numpy().tobytes() for image in _synset_pixels(plan)}
    randomness = seeds.generator(0, "calibration images")
    chosen: list[int] = []
    for index in class_indices(source.labels, classes):
        order = index[torch.randperm(len(index), generator=randomness)].tolist()
        fresh = (place for place in order if not known or source.images[place].numpy().tobytes() not in known)
        chosen += [place for _, place in zip(range(max(1, HELD_OUT // classes)), fresh, strict=False)]
    return take(source, torch.tensor(sorted(chosen), dtype=torch.int64)), unseen


def _synset_pixels(plan: Plan) -> Tensor:
    """The stored images as uint8 pixels, the real ones among them exactly."""
    images = plan.synset.plain(plan.preprocess).images
    if images.dtype == torch.uint8:
        return images
    return plan.preprocess.invert(images).clamp(0, 1).mul(255).round().to(torch.uint8)


# Students


class PixelModel(nn.Module):
    """A network with its preprocess before it: pixels in [0, 1] -> logits float32, differentiable in the pixels."""

    def __init__(self, net: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.net = net
        self.preprocess = preprocess

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits ``(n, K)`` of float pixels ``(n, C, H, W)``."""
        logits: Tensor = self.net(self.preprocess.apply(pixels))
        return logits.float()


def weights_folder(out: Path) -> Path:
    """Where an evaluation keeps its students while probes are open."""
    return out.with_name(f"{out.stem}.weights")


def weights_path(folder: Path, student: str, seed: int) -> Path:
    """The file of one student; the name of an architecture may hold characters that a file name may not."""
    return folder / f"{text_hash(student)[:16]}-s{seed}.safetensors"


def weights_bytes(net: nn.Module) -> int:
    """Bytes of a student's tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())


def write_weights(folder: Path, net: nn.Module, *, student: str, seed: int, accuracy: float, identity: str) -> None:
    """Keep a trained student.

    Args:
        identity: hash of the evaluation's head.
    """
    header = {
        "kind": WEIGHTS_KIND,
        "schema": WEIGHTS_SCHEMA,
        "student": student,
        "seed": seed,
        "accuracy": accuracy,
        "evaluation": identity,
    }
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in net.state_dict().items()}
    write_tensors(weights_path(folder, student, seed), tensors, header)


def has_weights(folder: Path, student: str, seed: int, accuracy: float, identity: str) -> bool:
    """Whether a whole file of this student is there."""
    try:
        with open_tensors(weights_path(folder, student, seed), WEIGHTS_KIND, WEIGHTS_SCHEMA) as (_, header):
            wanted = {"student": student, "seed": seed, "accuracy": accuracy, "evaluation": identity}
            return all(header.get(name) == value for name, value in wanted.items())
    except UserError:  # absent, torn or foreign: the student is trained again
        return False


def _network(plan: Plan, folder: Path, student: str, seed: int, device: torch.device) -> nn.Module:
    path = weights_path(folder, student, seed)
    _, channels, size, _ = plan.synset.images.shape
    net = build_student(student, channels=channels, size=size, classes=plan.synset.classes, seed=seed)
    with open_tensors(path, WEIGHTS_KIND, WEIGHTS_SCHEMA) as (handle, _):
        try:
            net.load_state_dict({name: handle.get_tensor(name) for name in handle.keys()})  # noqa: SIM118 (not a dict)
        except RuntimeError:
            raise UserError(f"{path}: not the weights of {student}; remove that folder") from None
    return net.to(device).requires_grad_(False).eval()


def open_student(
    plan: Plan, dataset: Dataset, folder: Path, student: str, seed: int, settings: Settings, images: int
) -> Trained:
    """A kept student, ready to be measured on so many test images."""
    device = devices.resolve_device(settings.device)
    net = _network(plan, folder, student, seed, device)

    def logits(pixels: Tensor) -> Tensor:
        labels = torch.zeros(len(pixels), dtype=torch.int64)
        return predict(net, inputs_of(Split(pixels, labels), plan.preprocess, device), precision=settings.precision)

    held_out, unseen = held_out_images(plan, dataset)
    return Trained(
        student=student,
        seed=seed,
        model=PixelModel(net, plan.preprocess).eval(),
        logits=logits,
        test=split_to_test(plan, balanced(dataset.test, images, plan.synset.classes)),
        held_out=split_to_test(plan, held_out),
        held_out_unseen=unseen,
        plan=plan,
        device=device,
    )


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 as it is written: no TF32 in convolutions and matrix products of a GPU, put back afterwards."""
    if not torch.cuda.is_available():
        yield
        return
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def measure(trained: Trained, probe: Probe) -> Finding:
    """One probe on one student; torch's global generators are as before.

    Raises:
        UserError: as :meth:`Probe.measure`.
    """
    with full_precision(), seeds.isolated(trained.seed, "probe", trained.student, probe.name):
        return probe.measure(trained)
