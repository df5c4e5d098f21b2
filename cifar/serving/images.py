"""Images of any size and mode to the 32×32 pixels that every network takes; this happens only here."""

import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from cifar.errors import InputError, WorldError
from cifar.serving.limits import BYTES, MAX_FILE, MAX_MEMORY, MAX_SIDE, decoding_bytes

SIDE = 32
STRIP = 2**20  # pixels that are converted at a time, so that a conversion needs next to no memory
# Of each orientation in EXIF: how to turn the image upright, whether its columns become rows, and whether backwards.
TURN = Image.Transpose
ORIENTATIONS = {
    1: (None, False, False), 2: (TURN.FLIP_LEFT_RIGHT, False, False), 3: (TURN.ROTATE_180, False, True),
    4: (TURN.FLIP_TOP_BOTTOM, False, True), 5: (TURN.TRANSPOSE, True, False), 6: (TURN.ROTATE_270, True, False),
    7: (TURN.TRANSVERSE, True, True), 8: (TURN.ROTATE_90, True, True),
}  # fmt: skip

Source = str | Path | IO[bytes] | Image.Image

# Warning filters are global: if two threads changed them at the same time, they would stay changed.
_filters = threading.Lock()


def read_image(source: Source) -> Tensor:
    """Read an image as the networks take it: upright, opaque, RGB, its central square, 32×32.

    1. The first of several frames or pages; turned upright as its EXIF says; embedded colour profiles are not applied.
    2. 8 bits per channel, see `eight_bits`; transparency onto white; then from any colour space to RGB, by Pillow.
    3. The largest central square; of an odd remainder the smaller half is cut off on the left or at the top.
    4. Resized to 32×32 by Pillow's LANCZOS, which is antialiased: it keeps nearly all detail that 32 pixels can hold,
       with almost no aliasing. BOX aliases more, and is nearest-neighbour when it enlarges.

    A 32×32 RGB image is returned bit for bit.

    Args:
        source: a path, a file opened in binary mode, or a Pillow image, which is not changed.

    Returns:
        uint8 [3, 32, 32].

    Raises:
        InputError: there is no such file.
        WorldError: not an image of a format in BYTES, truncated, damaged, or one that would need more than 400 MB.
    """
    if isinstance(source, Image.Image):
        return decode(source, name="the image")
    name = f"{source}" if isinstance(source, str | Path) else "the image"
    try:
        if isinstance(source, str | Path) and not Path(source).is_file():
            if not Path(source).exists():
                raise InputError(f"There is no file {name}.")
            raise WorldError(f"{name} is a folder, device or pipe, not a file: name an image file.")
        if isinstance(source, str | Path) and Path(source).stat().st_size > MAX_FILE:
            raise too_large(name)
        # Only the header is read here, so the lock is held for a moment.
        with _filters, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # such as of damaged EXIF data, which do no harm
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(source, formats=readable_formats())
    except (InputError, WorldError):
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise too_large(name) from None
    except UnidentifiedImageError:
        raise WorldError(f"{name} is not an image of a known format: convert it to PNG or JPEG.") from None
    except OSError as error:
        raise WorldError(f"{name} cannot be read: {error.strerror or error}.") from None
    except Exception as error:  # each of Pillow's forty formats raises its own error on a damaged header
        raise damaged(name, error) from None
    with image:
        return decode(image, name=name)


def decode(image: Image.Image, *, name: str) -> Tensor:
    """`read_image` of an open image; `name` is for the errors."""
    try:
        if image.format in ("EPS", "WMF"):  # opened by the caller, but not read yet
            raise WorldError("is a program, not a picture: convert it to PNG or JPEG.")
        if max(image.size) > MAX_SIDE or decoding_bytes(image) > MAX_MEMORY:
            raise too_large(name)
        image.load()
        return resize(image)
    except Image.DecompressionBombError:
        raise too_large(name) from None
    except WorldError as error:
        raise WorldError(f"{error}" if f"{error}".startswith(name) else f"{name} {error}") from None
    except Exception as error:  # as above, of damaged pixels
        raise damaged(name, error) from None


def orientation(image: Image.Image) -> int:
    """What the EXIF says of how the image lies, 1 to 8; 1, which is upright, where it is damaged."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return value if value in ORIENTATIONS else 1
    except Exception:  # Pillow parses it only now, and can raise anything
        return 1


def resize(image: Image.Image) -> Tensor:
    """The central square of a loaded image, upright, as RGB, resized: uint8 [3, 32, 32].

    First the width, as Pillow does by itself, but a strip at a time; then the height.
    """
    turn, columns_to_rows, _ = ORIENTATIONS[orientation(image)]
    width, height = reversed(image.size) if columns_to_rows else image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    limits = grey_limits(image) if is_deep(image.mode) else None
    narrow = Image.new("RGB", (SIDE, height))
    for row, strip in strips(image):
        strip = strip if turn is None else strip.transpose(turn)
        box = (left, 0, left + side, strip.height)
        narrow.paste(to_rgb(strip, limits).resize((SIDE, strip.height), Image.Resampling.LANCZOS, box=box), (0, row))
    resized = narrow.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=(0, top, SIDE, top + side))
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()  # [3, 32, 32]


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The strips of an image that are rows when it is upright, not turned yet, each after its first row there."""
    _, columns_to_rows, backwards = ORIENTATIONS[orientation(image)]
    width, height = reversed(image.size) if columns_to_rows else image.size
    step = max(1, STRIP // width)
    for row in range(0, height, step):
        end = min(row + step, height)
        first, last = (height - end, height - row) if backwards else (row, end)
        box = (first, 0, last, width) if columns_to_rows else (0, first, width, last)
        yield row, image.crop(box)


def to_rgb(image: Image.Image, limits: tuple[float, float] | None) -> Image.Image:
    """The image as 8-bit RGB, composited on white; the values of black and white are those of `grey_limits`."""
    if limits is not None:
        image = Image.fromarray(eight_bits(np.asarray(image), *limits))
    if image.mode == "La":
        image = image.convert("LA")  # Pillow converts grey with premultiplied alpha to nothing else
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def is_deep(mode: str) -> bool:
    """Whether Pillow's mode is one of greys with more than 8 bits."""
    return mode.startswith("I") or mode == "F"


def grey_limits(image: Image.Image) -> tuple[float, float]:
    """The values of black and white in an image of greys with more than 8 bits.

    In the modes I;16… white is 65,535. The modes I (32-bit integers) and F (floats) do not define white: it is the
    first of 1 (F only), 255 and 65,535 that no value exceeds. If a value is negative or greater, as in measurements,
    black is the minimum and white the maximum.

    Raises:
        WorldError: a value is not finite.
    """
    arrays = (np.asarray(strip) for _, strip in strips(image))
    low, high = np.array([(array.min(), array.max()) for array in arrays], np.float32).T  # exact up to 2²⁴
    if not (np.isfinite(low).all() and np.isfinite(high).all()):  # NaN is the minimum and the maximum of its strip
        raise WorldError("has values that are not finite: save it with 8 or 16 bits.")
    return black_and_white(float(low.min()), float(high.max()), mode=image.mode)


def black_and_white(low: float, high: float, *, mode: str) -> tuple[float, float]:
    """`grey_limits` of values from `low` to `high`."""
    whites = (65_535.0,) if mode.startswith("I;") else (255.0, 65_535.0) if mode == "I" else (1.0, 255.0, 65_535.0)
    if low >= 0 and high <= whites[-1]:
        return 0.0, next(white for white in whites if high <= white)
    return low, high


def eight_bits(values: NDArray[np.generic], black: float, white: float) -> NDArray[np.uint8]:
    """Grey values [H, W], scaled linearly so that black becomes 0 and white 255, and rounded."""
    grey = values.astype(np.float32)  # half the size of float64
    grey -= black
    grey *= 255 / (white - black) if white > black else 0
    return np.rint(grey, out=grey).astype(np.uint8)


def readable_formats() -> list[str]:
    """Pillow's names of the formats that `read_image` accepts."""
    Image.init()
    return [name for name in BYTES if name in Image.OPEN]  # AVIF and others are optional parts of Pillow


def image_suffixes() -> frozenset[str]:
    """Suffixes of image files, in lower case with the dot, of the formats that `read_image` accepts."""
    readable = set(readable_formats())
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in readable)


def too_large(name: str) -> WorldError:
    """The error for an image that would fill the memory."""
    return WorldError(
        f"{name} is too large: decoding may need {MAX_MEMORY // 10**6} MB, and a side may have {MAX_SIDE:,} pixels; "
        "make it smaller first."
    )


def damaged(name: str, error: Exception) -> WorldError:
    """The error for an image that cannot be decoded."""
    reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
    return WorldError(f"{name} is damaged or truncated ({reason}): restore it or leave it out.")
