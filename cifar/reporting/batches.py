"""Pictures of batches: images as the network sees them in training, and what it says of some that were held out."""

import io
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from cifar.reporting.figures import ENLARGED, WARNING, enlarge

COLUMNS, CAPTION, HEADING, GAP = 8, 20, 46, 10  # images in a row; dots: a line of a caption, the title, between images


def batch_picture(
    pixels: Tensor, captions: Sequence[str], *, marked: Sequence[bool] = (), title: str, note: str = ""
) -> bytes:
    """Return a PNG file of images in rows of eight with a caption of one or two lines below each.

    Drawn by Pillow alone: matplotlib would take ten times as long at the end of every training.

    Args:
        pixels: uint8 [N, 3, 32, 32].
        captions: N texts.
        marked: which captions are in the colour of errors; none where it is empty.
        title: shown above, as it is; note: in capitals below.
    """
    from PIL import Image, ImageDraw, ImageFont

    step, lines = ENLARGED + GAP, max((caption.count("\n") for caption in captions), default=0) + 1
    row_height = ENLARGED + 6 + lines * CAPTION + GAP
    num_rows = -(-len(captions) // COLUMNS)
    width = GAP + COLUMNS * step
    sheet = Image.new("RGB", (width, HEADING + num_rows * row_height + 30 * bool(note)), "white")
    draw = ImageDraw.Draw(sheet)
    small, large = ImageFont.load_default(12), ImageFont.load_default(18)
    draw.text((width / 2, HEADING / 2), printable(title), fill="black", font=large, anchor="mm")
    for index, (image, caption) in enumerate(zip(pixels, captions, strict=True)):
        row, column = divmod(index, COLUMNS)
        left, top = GAP + column * step, HEADING + row * row_height
        large_image = enlarge(image.permute(1, 2, 0).contiguous().numpy())
        sheet.paste(Image.fromarray(np.ascontiguousarray(large_image)), (left, top))
        colour = WARNING if marked and marked[index] else "black"
        place = (left + ENLARGED / 2, top + ENLARGED + 4)
        draw.multiline_text(place, printable(caption), fill=colour, font=small, anchor="ma", align="center", spacing=3)
    if note:
        draw.text((width / 2, sheet.height - 16), printable(note.upper()), fill=WARNING, font=small, anchor="mm")
    data = io.BytesIO()
    sheet.save(data, "png", compress_level=3)
    return data.getvalue()


def printable(text: str) -> str:
    """Text without what is no text, and on one line per line of the caption: a folder's name may hold anything."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)
