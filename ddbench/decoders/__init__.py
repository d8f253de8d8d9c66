"""Decoders: what makes images of the arrays that a synset stores. One file a decoder. Imports no torch.

A file of this folder whose class is called ``DECODER`` there is one; its name is the file's, with dashes. Another
package adds its own by an entry point in the group ``ddbench.decoders``.
"""

from __future__ import annotations

from pathlib import Path

from ddbench.registry import Registry

APART = ("__init__", "base")
"""Files of this folder that are no decoders."""


def shipped() -> dict[str, str]:
    """The decoders of this package by name: ``module:attribute``."""
    files = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in APART)
    return {stem.replace("_", "-"): f"{__name__}.{stem}:DECODER" for stem in files}


DECODERS = Registry("decoder", "ddbench.decoders", shipped)

LINES = {
    "ddif": "each image a small network of sines, from coordinates to colours (DDiF)",
    "fred": "some coefficients of each image's cosine transform, at the positions of its class's mask (FreD)",
    "multi-formation": "several smaller images in each stored one (IDC, DREAM, NCFM)",
}
"""The decoders of this package, each in one line."""


def description(name: str) -> str:
    """A decoder in one line; of another package's, where its code is."""
    return LINES.get(name) or DECODERS.origin(name)
