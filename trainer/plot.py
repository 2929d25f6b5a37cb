"""A curve over a logarithmic axis as a PNG, drawn by Pillow: points, a line through them, and marks."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

#: Width and height in pixels. Drawn at twice that and made smaller, which smooths the lines.
SIZE, TWICE = (960, 560), 2
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 24, 52, 60
_PAPER, _INK, _FAINT, _GRID = (250, 250, 250), (20, 20, 20), (150, 150, 150), (225, 225, 225)
_LINE, _MARKS = (31, 90, 170), ((200, 60, 40), (40, 130, 70))
_TICKS = 6


@dataclass(frozen=True)
class Mark:
    """A place on the horizontal axis, drawn as a line from top to bottom."""

    place: float
    label: str


@dataclass(frozen=True)
class Plot:
    """What is drawn. `x` is above 0 and rises; `points` and `line` are its values, [n] each."""

    title: str
    x_label: str
    y_label: str
    x: NDArray[np.float64]
    points: NDArray[np.float64]
    line: NDArray[np.float64]
    marks: Sequence[Mark] = ()


class _Axes:
    """From values to pixels, at twice the size."""

    def __init__(self, plot: Plot):
        self.low_x, self.high_x = _span(np.log10(plot.x)) if len(plot.x) else (0.0, 1.0)
        low, high = _span(plot.line) if len(plot.line) else (0.0, 1.0)
        margin = 0.08 * (high - low)
        self.low_y, self.high_y = low - margin, high + margin

    def x(self, value: float) -> float:
        share = (math.log10(value) - self.low_x) / (self.high_x - self.low_x)
        return TWICE * (_LEFT + share * (SIZE[0] - _LEFT - _RIGHT))

    def y(self, value: float) -> float:
        share = (value - self.low_y) / (self.high_y - self.low_y)
        return TWICE * (SIZE[1] - _BOTTOM - min(max(share, 0.0), 1.0) * (SIZE[1] - _BOTTOM - _TOP))


def draw(plot: Plot) -> bytes:
    """The plot as a PNG file. Points outside of what the line spans lie on the edge."""
    sheet = Image.new("RGB", (TWICE * SIZE[0], TWICE * SIZE[1]), _PAPER)
    pen, axes = ImageDraw.Draw(sheet), _Axes(plot)
    _grid(pen, axes)
    for x, y in zip(plot.x, plot.points, strict=True):
        _dot(pen, axes.x(x), axes.y(y))
    path = [(axes.x(x), axes.y(y)) for x, y in zip(plot.x, plot.line, strict=True)]
    if len(path) > 1:
        pen.line(path, fill=_LINE, width=3 * TWICE, joint="curve")
    for number, mark in enumerate(plot.marks):
        _mark(pen, axes, mark, number)
    middle = TWICE * (_LEFT + SIZE[0] - _RIGHT) / 2
    pen.text((TWICE * _LEFT, TWICE * 14), plot.title, _INK, _font(17))
    pen.text((middle, TWICE * (SIZE[1] - 14)), plot.x_label, _INK, _font(14), anchor="mm")
    pen.text((TWICE * 10, TWICE * (_TOP - 14)), plot.y_label, _INK, _font(14), anchor="lm")
    file = io.BytesIO()
    sheet.resize(SIZE, Image.Resampling.LANCZOS).save(file, "PNG")
    return file.getvalue()


def _grid(pen: ImageDraw.ImageDraw, axes: _Axes) -> None:
    """Lines and numbers: each power of ten across, round values upwards."""
    left, right, bottom = TWICE * _LEFT, TWICE * (SIZE[0] - _RIGHT), TWICE * (SIZE[1] - _BOTTOM)
    for power in range(math.ceil(axes.low_x - 1e-9), math.floor(axes.high_x + 1e-9) + 1):
        x = axes.x(10.0**power)
        pen.line([(x, TWICE * _TOP), (x, bottom)], fill=_GRID, width=TWICE)
        pen.text((x, bottom + TWICE * 14), f"1e{power}", _INK, _font(13), anchor="mm")
    step = _round_step((axes.high_y - axes.low_y) / _TICKS)
    for count in range(math.ceil(axes.low_y / step), math.floor(axes.high_y / step) + 1):
        y = axes.y(count * step)
        pen.line([(left, y), (right, y)], fill=_GRID, width=TWICE)
        pen.text((left - TWICE * 8, y), f"{count * step:g}", _INK, _font(13), anchor="rm")
    pen.line([(left, TWICE * _TOP), (left, bottom), (right, bottom)], fill=_FAINT, width=TWICE)


def _dot(pen: ImageDraw.ImageDraw, x: float, y: float) -> None:
    radius = 2 * TWICE
    pen.ellipse([(x - radius, y - radius), (x + radius, y + radius)], fill=_FAINT)


def _mark(pen: ImageDraw.ImageDraw, axes: _Axes, mark: Mark, number: int) -> None:
    if not axes.low_x <= math.log10(mark.place) <= axes.high_x:
        return
    x, colour = axes.x(mark.place), _MARKS[number % len(_MARKS)]
    pen.line([(x, TWICE * _TOP), (x, TWICE * (SIZE[1] - _BOTTOM))], fill=colour, width=2 * TWICE)
    words, place = f"{mark.label} {mark.place:.2g}", (x - TWICE * 6, TWICE * (SIZE[1] - _BOTTOM - 16 - 20 * number))
    pen.text(place, words, colour, _font(14), anchor="rm")


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(TWICE * size)


def _span(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _round_step(width: float) -> float:
    """The nearest of 1, 2, 5 times a power of ten that is no less than `width`."""
    power = 10.0 ** math.floor(math.log10(width))
    return next((times * power for times in (1, 2, 5) if times * power >= width), 10 * power)
