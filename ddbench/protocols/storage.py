"""What a synset costs to keep and to use: bytes of images, labels, augmentation and teacher, beside the real set's.

Images count as stored, or the parameters that a decoder makes them of, masks included; hard labels
``ceil(log2 K / 8)`` bytes each; soft labels as stored; labels of every view
``images x epochs x K x 2`` bytes (float16), and 8 bytes for the seed that makes the views again; a teacher that must
run while the student trains costs its weights; so does the one network that a recipe was learned for (``other``).
"""

from __future__ import annotations

from typing import Any

from ddbench.data.dataset import Dataset
from ddbench.networks.build import parameter_count
from ddbench.protocols.plan import Plan
from ddbench.protocols.replay import replay_network
from ddbench.synset import Synset


def storage(plan: Plan, dataset: Dataset) -> dict[str, Any]:
    """Bytes of a synset as a protocol uses it.

    Returns:
        ``images``, ``labels``, ``augmentation``, ``teacher``, ``other``, their ``total``; ``real`` (the training set's
        pixels as uint8) and ``real_images`` (how many).
    """
    synset = plan.synset
    labels, augmentation, teacher = label_bytes(synset), 0, 0
    if plan.protocol.labels == "stored" and plan.stored is not None:
        labels, augmentation = labels + plan.stored.bytes, 8
    if plan.protocol.labels == "once":  # what would be stored: a number for each class and decoded image
        labels = 4 * synset.decoded_images * synset.classes
    if plan.protocol.labels == "teacher" and plan.teacher is not None:
        teacher = plan.teacher.bytes
    images = synset.image_bytes
    other = sum(t.numel() * t.element_size() for t in (synset.learned_lr, synset.stage) if t is not None)
    if plan.protocol.replay and synset.schedule is not None and synset.schedule.fixed is not None:
        # It works with one network only, which is then part of what is handed over.
        other += 4 * parameter_count(replay_network(synset, str(synset.student), 0))
    return {
        "images": images,
        "labels": labels,
        "augmentation": augmentation,
        "teacher": teacher,
        "other": other,
        "total": images + labels + augmentation + teacher + other,
        "real": dataset.train.images.numel(),
        "real_images": len(dataset.train.labels),
    }


def label_bytes(synset: Synset) -> int:
    """Bytes of the labels in the synset file."""
    return synset.label_bytes
