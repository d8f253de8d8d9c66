"""Our corruptions against the script that made CIFAR-10-C, type by type and severity by severity.

That script (``ImageNet-C/create_c/make_cifar_c.py`` of github.com/hendrycks/robustness) is not ours: give its path.
It needs ``wand`` with ImageMagick, ``opencv-python-headless`` and ``scikit-image``; names that newer numpy, scipy and
scikit-image have dropped are put back while it is read. Only what stands before its end of the distortions is run.

Per type and severity: by how much each changes the images (root mean square, of 255), the ratio, and the same for the
difference between the two. A random corruption differs between two draws; one without draws by the cut to 8 bits, where
the authors cut and we round (0.5 in the mean, 0.7 in the root mean square).
"""

from __future__ import annotations

import types
import warnings
from pathlib import Path
from typing import Any

import common
import numpy as np

REPLACED = {
    "np.float_": "np.float64",
    "np.fromstring": "np.frombuffer",
    "scipy.ndimage.interpolation": "scipy.ndimage",
    "multichannel=True": "channel_axis=-1",
}


def theirs(path: Path) -> Any:
    """The distortions of the authors' script, as a module."""
    source = path.read_text().partition("# /////////////// End Distortions")[0]
    for old, new in REPLACED.items():
        source = source.replace(old, new)
    module = types.ModuleType("make_cifar_c")
    exec(compile(source, str(path), "exec"), module.__dict__)
    return module


def size(change: Any) -> float:
    """Root mean square."""
    return float(np.sqrt(np.square(change).mean()))


def main() -> None:
    """Print the table."""
    parser = common.parser(__doc__ or "")
    parser.add_argument("script", type=Path)
    parser.add_argument("--dataset", default="cifar10", help="colour images of 32 px, such as folder:PATH")
    parser.add_argument("--data", type=Path, help="folder with the datasets")
    parser.add_argument("--images", type=int, default=200)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    import torch
    from PIL import Image

    from ddbench.data.load import load_dataset
    from ddbench.measurements.corruption_types import SEVERITIES, TYPES, corrupt

    authors = theirs(options.script)
    whole = load_dataset(options.dataset, options.data, size=32).test.images
    images = whole[torch.arange(options.images) * len(whole) // options.images].numpy()
    pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in images]
    clean = images.astype(np.float64)
    np.random.seed(0)  # noqa: NPY002 - the authors' script draws from it
    lines = ["| type | severity | change, authors | ddbench | ratio | difference |", "|---|---|---|---|---|---|"]
    for name in TYPES:
        for severity in SEVERITIES:
            made = [np.asarray(getattr(authors, name)(picture, severity)) for picture in pictures]
            other = np.uint8(np.stack(made)).transpose(0, 3, 1, 2).astype(np.float64)
            own = corrupt(images, name, severity).astype(np.float64)
            changes = f"{size(other - clean):.2f} | {size(own - clean):.2f}"
            ratio = size(own - clean) / size(other - clean)
            lines.append(f"| {name} | {severity} | {changes} | {ratio:.3f} | {size(own - other):.2f} |")
    title = f"Corruptions against the script of CIFAR-10-C, {len(images)} test images of CIFAR-10"
    common.report(__file__, title, lines, "python benchmarks/corruption_agreement.py make_cifar_c.py")


if __name__ == "__main__":
    main()
