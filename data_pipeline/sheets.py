"""Contact sheets: images in rows, each fitted into a square, with a line of text below."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from data_pipeline.records import RAW, CorruptRecord, Record

_MARGIN, _GAP, _LABEL, _TITLE = 12, 8, 14, 28
_PAPER, _INK, _FAINT = (250, 250, 250), (20, 20, 20), (110, 110, 110)
_LABEL_SIZE, _TITLE_SIZE = 10, 15


@dataclass(frozen=True)
class Tile:
    """One image of a sheet and what stands below it."""

    image: Image.Image
    label: str


@dataclass(frozen=True)
class Grid:
    """Where things are on a sheet whose tiles have `side` pixels."""

    side: int

    def size(self, rows: int, columns: int) -> tuple[int, int]:
        """Width and height of the sheet."""
        width = 2 * _MARGIN + columns * (self.side + _GAP) - _GAP
        return width, 2 * _MARGIN + _TITLE + rows * (self.side + _LABEL + _GAP) - _GAP

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """The upper left corner of a tile's square."""
        return _MARGIN + column * (self.side + _GAP), _MARGIN + _TITLE + row * (self.side + _LABEL + _GAP)

    def place(self, row: int, column: int, image: Image.Image) -> tuple[int, int]:
        """The upper left corner of an image that stands in the middle of that square."""
        x, y = self.corner(row, column)
        return x + (self.side - image.width) // 2, y + (self.side - image.height) // 2


def draw_sheet(title: str, rows: Sequence[Sequence[Tile]], side: int) -> Image.Image:
    """The sheet of these rows."""
    grid = Grid(side)
    columns = max((len(row) for row in rows), default=1)
    sheet = Image.new("RGB", grid.size(len(rows), columns), _PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_LABEL_SIZE)
    heading = ImageFont.load_default(_TITLE_SIZE)
    pen.text((_MARGIN, _MARGIN), fitted_text(title, heading, sheet.width - 2 * _MARGIN), _INK, heading)
    for number, row in enumerate(rows):
        for column, tile in enumerate(row):
            image = fitted(tile.image, side)
            sheet.paste(image, grid.place(number, column, image))
            x, y = grid.corner(number, column)
            pen.text((x, y + side + 1), fitted_text(tile.label, font, side), _FAINT, font)
    return sheet


def in_rows(tiles: Sequence[Tile], columns: int) -> list[list[Tile]]:
    """The tiles in rows of `columns`."""
    return [list(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]


def fitted(image: Image.Image, side: int) -> Image.Image:
    """The image no larger than `side`; one of less than half of it is enlarged by a whole number, pixel by pixel."""
    largest = max(image.size)
    if largest > side:
        image = image.copy()
        image.thumbnail((side, side))
        return image
    times = side // largest
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def fitted_text(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, its beginning left out where it is too wide: the end of a path tells more."""
    if font.getlength(text) <= width:
        return text
    return next((f"…{text[start:]}" for start in range(len(text)) if font.getlength(f"…{text[start:]}") <= width), "")


def picture(record: Record) -> Image.Image:
    """The stored image as RGB; CorruptRecord where there is none."""
    try:
        if record.format == RAW:
            raw = np.frombuffer(record.encoded, np.uint8).reshape(record.height, record.width, -1)
            return pixels_picture(raw.astype(np.float32))
        image: Image.Image = Image.open(io.BytesIO(record.encoded))
        if image.mode.startswith("I"):  # 16 bits of grey: the upper eight are what training sees
            image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
        return image.convert("RGB")
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        law = f"cannot be decoded as an image: {error}"
        raise CorruptRecord(f"example {record.key} {law} - prepare the set again") from error


def pixels_picture(pixels: NDArray[np.float32]) -> Image.Image:
    """Pixels 0..255 [height, width, 1 or 3] as RGB."""
    whole = np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)
    return Image.fromarray(whole[..., 0] if whole.shape[-1] == 1 else whole).convert("RGB")


def png_bytes(sheet: Image.Image) -> bytes:
    """The sheet as a PNG file."""
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()
