"""Reliability diagrams (accuracy by confidence) as CSV, SVG and PNG; the same rows give the same bytes.

One list of shapes is drawn twice, as SVG text and with pillow: no plotting library is needed.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from PIL.Image import Image

Row = Sequence[float | int | None]
"""Of one bin: n, mean confidence, accuracy; the last two None where n is 0."""

WIDTH, HEIGHT = 360, 470
LEFT, TOP, SIDE = 52, 52, 280
"""The square of the diagram."""
HISTOGRAM_TOP, HISTOGRAM = 350, 70
SCALE = 2
"""Pixels of the PNG a unit of the SVG."""

INK, GRID, BAR, OVER, UNDER, COUNT = "#222222", "#bbbbbb", "#4477aa", "#ee6677", "#99ccdd", "#777777"
FONT = 12


@dataclass(frozen=True)
class Shape:
    """A filled box (x, y, width, height), a line (x1, y1, x2, y2) or, at (x, y), a text."""

    kind: str
    place: tuple[float, ...]
    colour: str
    text: str = ""
    anchor: str = "start"


def diagram_files(student: str, rows: Sequence[Row]) -> dict[str, bytes]:
    """``reliability/<student>.csv``, ``.svg`` and ``.png``.

    Args:
        rows: one a bin, in order.
    """
    name = "reliability/" + re.sub(r"[^A-Za-z0-9._-]+", "_", student)
    drawn = shapes(student, rows)
    return {f"{name}.csv": table(rows).encode(), f"{name}.svg": svg(drawn).encode(), f"{name}.png": png(drawn)}


def table(rows: Sequence[Row]) -> str:
    """CSV with ``bin_lo, bin_hi, n, mean_conf, acc``; the last two are empty for an empty bin."""
    lines = ["bin_lo,bin_hi,n,mean_conf,acc"]
    for place, (n, confidence, accuracy) in enumerate(rows):
        ends = f"{place / len(rows):.6f},{(place + 1) / len(rows):.6f}"
        values = "," if confidence is None or accuracy is None else f"{confidence:.6f},{accuracy:.6f}"
        lines.append(f"{ends},{n},{values}")
    return "\n".join(lines) + "\n"


def pooled_error(rows: Sequence[Row]) -> tuple[float, int]:
    """ECE of all images of the rows together, and their number."""
    total = sum(int(n or 0) for n, _, _ in rows)
    gaps = sum(int(n or 0) * abs((a or 0.0) - (c or 0.0)) for n, c, a in rows)
    return gaps / max(1, total), total


def shapes(student: str, rows: Sequence[Row]) -> list[Shape]:
    """The diagram: bars of accuracy, what the mean confidence has more or less, the diagonal, and how many images a bin
    has.
    """
    error, total = pooled_error(rows)
    bottom, right = TOP + SIDE, LEFT + SIDE
    made = [
        Shape("text", (LEFT, 20), INK, student),
        Shape("text", (LEFT, 38), INK, f"ECE {error:.4f} of {total:,} outputs, all seeds together"),
    ]
    most = max([int(n or 0) for n, _, _ in rows] + [1])
    width = SIDE / len(rows)
    for place, (n, confidence, accuracy) in enumerate(rows):
        x = LEFT + place * width + 1
        if confidence is None or accuracy is None:
            continue
        low, high = sorted((accuracy, confidence))
        made.append(Shape("box", (x, bottom - SIDE * accuracy, width - 2, SIDE * accuracy), BAR))
        gap = OVER if confidence > accuracy else UNDER
        made.append(Shape("box", (x, bottom - SIDE * high, width - 2, SIDE * (high - low)), gap))
        tall = HISTOGRAM * int(n or 0) / most
        made.append(Shape("box", (x, HISTOGRAM_TOP + HISTOGRAM - tall, width - 2, tall), COUNT))
    made.append(Shape("line", (LEFT, bottom, right, TOP), INK))
    for ends in ((LEFT, TOP, LEFT, bottom), (LEFT, bottom, right, bottom), (LEFT, TOP, right, TOP)):
        made.append(Shape("line", ends, GRID))
    base = HISTOGRAM_TOP + HISTOGRAM
    made += [Shape("line", (right, TOP, right, bottom), GRID), Shape("line", (LEFT, base, right, base), GRID)]
    for tick in (0.0, 0.5, 1.0):
        made.append(Shape("text", (LEFT - 6, bottom - SIDE * tick + 4), INK, f"{tick:g}", "end"))
        made.append(Shape("text", (LEFT + SIDE * tick, base + 16), INK, f"{tick:g}", "middle"))
    made += [
        Shape("text", (LEFT + SIDE / 2, base + 34), INK, "confidence", "middle"),
        Shape("text", (LEFT + 6, TOP + 16), BAR, "accuracy"),
        Shape("text", (LEFT + 6, TOP + 32), OVER, "confidence above it"),
        Shape("text", (LEFT + 6, TOP + 48), UNDER, "confidence below it"),
        Shape("text", (LEFT - 6, HISTOGRAM_TOP + 10), COUNT, f"{most:,}", "end"),
    ]
    return made


def svg(drawn: Sequence[Shape]) -> str:
    """The shapes as SVG."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="{FONT}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for shape in drawn:
        numbers = [f"{value:.2f}" for value in shape.place]
        if shape.kind == "box":
            x, y, width, height = numbers
            lines.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{shape.colour}"/>')
        elif shape.kind == "line":
            x1, y1, x2, y2 = numbers
            lines.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{shape.colour}"/>')
        else:
            x, y = numbers
            words = escape(shape.text)
            lines.append(f'<text x="{x}" y="{y}" fill="{shape.colour}" text-anchor="{shape.anchor}">{words}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def png(drawn: Sequence[Shape]) -> bytes:
    """The shapes as PNG, without metadata."""
    data = io.BytesIO()
    draw(drawn, WIDTH, HEIGHT).save(data, "PNG", optimize=True)
    return data.getvalue()


def draw(drawn: Sequence[Shape], width: int, height: int) -> Image:
    """The shapes as a picture of ``width`` x ``height`` units, :data:`SCALE` pixels each, on white."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (width * SCALE, height * SCALE), "#ffffff")
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(FONT * SCALE)
    for shape in drawn:
        numbers = [value * SCALE for value in shape.place]
        if shape.kind == "box":
            left, top, wide, tall = numbers
            if tall > 0:
                pen.rectangle((left, top, left + wide, top + tall), fill=shape.colour)
        elif shape.kind == "line":
            pen.line(numbers, fill=shape.colour, width=SCALE)
        else:
            anchor = {"start": "ls", "middle": "ms", "end": "rs"}[shape.anchor]
            pen.text((numbers[0], numbers[1]), shape.text, fill=shape.colour, font=font, anchor=anchor)
    return image
