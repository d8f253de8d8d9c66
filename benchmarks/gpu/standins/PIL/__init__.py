"""What ddbench asks Pillow for the preview of a run, for a machine without it. The real one is taken where it is."""

from typing import Any

from PIL import Image as Image


def __getattr__(name: str) -> Any:
    """Nothing else is here, and who asks for it is told so."""
    if name.startswith("__"):
        raise AttributeError(name)
    raise ModuleNotFoundError(f"No module named 'PIL.{name}'", name=f"PIL.{name}")
