"""Tensors as columns that ``datasets`` takes for images, lists of numbers and classes; and back."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddbench.hub import parquet
from ddbench.preview import png
from ddbench.runtime.errors import UserError
from ddbench.synset import Synset

Feature = dict[str, Any]


def value(dtype: str) -> Feature:
    """A plain column, in the words of ``datasets``."""
    return {"_type": "Value", "dtype": dtype}


def lists(dtype: str, dims: int, length: int | None = None) -> Feature:
    """Lists in lists, ``dims`` deep; ``length`` of the innermost where it is the same everywhere."""
    found = value(dtype)
    for depth in range(dims):
        found = {"_type": "List", "feature": found, **({"length": length} if length and depth == 0 else {})}
    return found


def class_label(names: Sequence[str]) -> Feature:
    """A column of classes; plain numbers where two classes have one name, which ``datasets`` refuses."""
    return {"_type": "ClassLabel", "names": list(names)} if len(set(names)) == len(names) else value("int64")


def image_column(synset: Synset) -> str:
    """``image`` (PNG, bit for bit) where the synset holds pixels that are grey or RGB, else ``tensor``."""
    return "image" if synset.space == "pixels" and synset.images.shape[1] in (1, 3) else "tensor"


def features_of(synset: Synset) -> dict[str, Feature]:
    """The columns of a synset in order."""
    name = image_column(synset)
    dtype = "float32" if synset.images.is_floating_point() else "uint8"
    found = {name: {"_type": "Image"} if name == "image" else lists(dtype, 3)}
    found["label"] = class_label(synset.class_names)
    if synset.label_kind != "hard":
        found["soft_label"] = lists("float32", 1, synset.classes)
    if synset.stage is not None:
        found["stage"] = value("int64")
    return found


def arrays_of(synset: Synset, start: int, stop: int) -> list[Any]:
    """Rows ``start`` to ``stop`` of every column, as arrow arrays."""
    images = synset.images[start:stop]
    found = [
        png_array(images, start) if image_column(synset) == "image" else nested(images.numpy()),
        nested(synset.hard_labels()[start:stop].numpy()),
    ]
    if synset.label_kind != "hard":
        found.append(fixed(synset.labels[start:stop].numpy()))
    if synset.stage is not None:
        found.append(nested(synset.stage[start:stop].numpy()))
    return found


def png_array(images: Tensor, start: int) -> Any:
    """uint8 ``(N, C, H, W)`` as structs of PNG bytes and a name."""
    pa, _ = parquet()
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": png(image), "path": f"{number:07d}.png"} for number, image in enumerate(images, start)]
    return pa.array(rows, type=kind)


def nested(array: np.ndarray[Any, Any]) -> Any:
    """An array ``(N, ...)`` as N values, or lists in lists."""
    pa, _ = parquet()
    found = pa.array(np.ascontiguousarray(array).reshape(-1))
    for length in array.shape[:0:-1]:
        ends = np.arange(0, len(found) + 1, length, dtype=np.int32)
        found = pa.ListArray.from_arrays(pa.array(ends), found)
    return found


def fixed(array: np.ndarray[Any, Any]) -> Any:
    """An array ``(N, K)`` as N lists of K values."""
    pa, _ = parquet()
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(array).reshape(-1)), array.shape[1])


def schema(features: Mapping[str, Feature], arrays: Sequence[Any]) -> Any:
    """The schema of a file, with what ``datasets`` takes its features from."""
    pa, _ = parquet()
    words = json.dumps({"info": {"features": dict(features)}}, sort_keys=True)
    fields = [pa.field(name, array.type) for name, array in zip(features, arrays, strict=True)]
    return pa.schema(fields, metadata={"huggingface": words})


def numbers(where: Path, name: str, column: Any, shape: tuple[int, ...], dtype: str) -> Tensor:
    """A column of numbers, or of lists of numbers, as a tensor of a known shape.

    Raises:
        UserError: another type, empty entries, or another number of values.
    """
    pa, _ = parquet()
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    for _ in shape[1:]:
        kind = array.type
        if array.null_count or not (
            pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        ):
            raise UserError(f"{where}: column {name!r} is {kind}, expected lists of {dtype} without empty entries")
        array = array.flatten()
    if array.null_count or array.type != pa.from_numpy_dtype(np.dtype(dtype)):
        raise UserError(f"{where}: column {name!r} holds {array.type}, expected {dtype} without empty entries")
    if len(array) != int(np.prod(shape)):
        raise UserError(f"{where}: column {name!r} holds {len(array)} values, expected {list(shape)}")
    found: Tensor = torch.from_numpy(array.to_numpy(zero_copy_only=False).copy()).reshape(shape)
    return found


def pictures(where: Path, column: Any, shape: tuple[int, ...]) -> Tensor:
    """A column of PNG images as uint8 ``(N, C, H, W)``.

    Raises:
        UserError: no column of images, or one that is no PNG of this shape.
    """
    from PIL import Image

    pa, _ = parquet()
    if not pa.types.is_struct(column.type) or column.type.get_field_index("bytes") < 0:
        raise UserError(f"{where}: column 'image' is {column.type}, expected images with their bytes")
    images = torch.empty(shape, dtype=torch.uint8)
    wanted = (shape[3], shape[2]), "L" if shape[1] == 1 else "RGB"
    for row, entry in enumerate(column):
        try:
            with Image.open(io.BytesIO(entry["bytes"].as_py()), formats=["PNG"]) as picture:
                if (picture.size, picture.mode) != wanted:
                    raise UserError(f"{where}: image {row} is {picture.size} {picture.mode}, expected {wanted}")
                array = np.array(picture)
        except (OSError, TypeError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(f"{where}: image {row} is no whole PNG: {error}") from None
        images[row] = torch.from_numpy(array).reshape(shape[2], shape[3], shape[1]).permute(2, 0, 1)
    return images
