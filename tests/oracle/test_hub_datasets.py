"""What ``export --format hub`` writes, read by Hugging Face's ``datasets`` with the network off."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_synsets import CLASSES, EPOCHS, KINDS, write_run, write_view_labels

from ddbench.hub.write import export_hub
from ddbench.synset import Synset

pytest.importorskip("pyarrow")
datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the library itself


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``load(folder, *configuration)``: the rows that ``load_dataset`` finds; any connection is an error."""

    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    datasets.disable_progress_bars()

    def call(folder: Path, *configuration: str) -> Any:
        return datasets.load_dataset(
            str(folder), *configuration, split="train", cache_dir=str(tmp_path / "cache"), token=False
        )

    return call


def images_of(rows: Any) -> torch.Tensor:
    """Images of loaded rows as ``(N, C, H, W)``."""
    if "tensor" in rows.column_names:
        return torch.from_numpy(np.stack(rows.with_format("numpy")[:]["tensor"]))
    arrays = [np.array(row["image"]) for row in rows]
    return torch.stack([torch.from_numpy(a[None] if a.ndim == 2 else a.transpose(2, 0, 1).copy()) for a in arrays])


@pytest.mark.parametrize("synset", KINDS.values(), ids=KINDS)
def test_the_same_pixels_tensors_and_labels(synset: Synset, load: Callable[..., Any], tmp_path: Path):
    export_hub(write_run(tmp_path / "run", synset), tmp_path / "pub")
    rows = load(tmp_path / "pub")
    images = images_of(rows)
    assert images.is_floating_point() == synset.images.is_floating_point()
    assert torch.equal(images.double(), synset.images.double())  # datasets makes int64 of lists of uint8
    assert rows["label"][:] == synset.hard_labels().tolist()
    assert rows.features["label"].names == list(synset.class_names)
    if synset.label_kind == "hard":
        assert "soft_label" not in rows.column_names
    else:
        assert torch.equal(rows.with_format("torch")[:]["soft_label"], synset.labels)
    if synset.stage is not None:
        assert rows["stage"][:] == synset.stage.tolist()


def test_the_configuration_of_stored_labels(load: Callable[..., Any], tmp_path: Path):
    run = write_run(tmp_path / "run", KINDS["network input"])
    logits = write_view_labels(run)
    export_hub(run, tmp_path / "pub")
    assert datasets.get_dataset_config_names(str(tmp_path / "pub")) == ["default", "labels"]
    rows = load(tmp_path / "pub", "labels")
    assert rows.features["logits"].feature.dtype == "float16"
    views = rows.with_format("numpy")[:]
    assert np.array_equal(views["logits"].reshape(EPOCHS, -1, CLASSES), logits.numpy())
    assert views["epoch"].tolist() == np.repeat(np.arange(EPOCHS), len(logits[0])).tolist()
    assert views["index"].tolist() == list(range(len(logits[0]))) * EPOCHS
    assert len(load(tmp_path / "pub")) == len(logits[0]), "the synset is the default"
