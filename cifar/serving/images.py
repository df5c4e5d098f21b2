"""Images of any size and mode to the 32×32 pixels that every network takes; this happens only here."""

import threading
import warnings
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from cifar.errors import InputError, WorldError

SIDE = 32
MAX_PIXELS = 89_478_485  # a quarter of a GiB in RGB: Pillow's own limit, which is an error here, not a warning
# EPS would run a stranger's program in Ghostscript; the others are only recognised by Pillow, not decoded.
REFUSED_FORMATS = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"})

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
        WorldError: not an image that Pillow can read, truncated, damaged, or of more than 89,478,485 pixels.
    """
    if isinstance(source, Image.Image):
        return decode(source, name="the image")
    name = f"{source}" if isinstance(source, str | Path) else "the image"
    try:
        if isinstance(source, str | Path) and not Path(source).is_file():
            if not Path(source).exists():
                raise InputError(f"There is no file {name}.")
            raise WorldError(f"{name} is a folder, device or pipe, not a file: name an image file.")
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
        raise WorldError(f"{name} is not an image that Pillow can read: convert it to PNG or JPEG.") from None
    except OSError as error:
        raise WorldError(f"{name} cannot be read: {error.strerror or error}.") from None
    except Exception as error:  # each of Pillow's forty formats raises its own error on a damaged header
        raise damaged(name, error) from None
    with image:
        return decode(image, name=name)


def decode(image: Image.Image, *, name: str) -> Tensor:
    """`read_image` of an open image; `name` is for the errors."""
    if image.width * image.height > MAX_PIXELS:
        raise too_large(name)
    try:
        image.load()
        return resize(to_rgb(upright(image)))
    except Image.DecompressionBombError:
        raise too_large(name) from None
    except WorldError as error:
        raise WorldError(f"{name} {error}") from None
    except Exception as error:  # as above, of damaged pixels
        raise damaged(name, error) from None


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF says, or unchanged where the EXIF is damaged, since the pixels are intact."""
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except Exception:  # Pillow parses it only now, and can raise anything
        return image
    return ImageOps.exif_transpose(image) if turned else image


def resize(image: Image.Image) -> Tensor:
    """The central square of an RGB image, resized: uint8 [3, 32, 32]."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    resized = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=box)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()  # [3, 32, 32]


def to_rgb(image: Image.Image) -> Image.Image:
    """The image as 8-bit RGB, composited on white."""
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(eight_bits(np.asarray(image), mode=image.mode))
    if image.mode == "La":
        image = image.convert("LA")  # Pillow converts grey with premultiplied alpha to nothing else
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def eight_bits(values: NDArray[np.generic], *, mode: str) -> NDArray[np.uint8]:
    """Scale grey values of more than 8 bits linearly, so that white becomes 255, and round them.

    In the modes I;16… white is 65,535. The modes I (32-bit integers) and F (floats) do not define white: it is the
    first of 1 (F only), 255 and 65,535 that no value exceeds. If a value is negative or greater, as in measurements,
    black is the minimum and white the maximum.

    Args:
        values: [H, W].
        mode: Pillow's.

    Raises:
        WorldError: a value is not finite.
    """
    grey = values.astype(np.float32)  # exact up to 2²⁴, and half the size of float64
    if not np.isfinite(grey).all():
        raise WorldError("has values that are not finite: save it with 8 or 16 bits.")
    low, high = float(grey.min()), float(grey.max())
    whites = (65_535.0,) if mode.startswith("I;") else (255.0, 65_535.0) if mode == "I" else (1.0, 255.0, 65_535.0)
    if low >= 0 and high <= whites[-1]:
        black, white = 0.0, next(white for white in whites if high <= white)
    else:
        black, white = low, high
    grey -= black
    grey *= 255 / (white - black) if white > black else 0
    return np.rint(grey, out=grey).astype(np.uint8)


def readable_formats() -> list[str]:
    """Pillow's names of the formats that `read_image` accepts."""
    Image.init()
    return [name for name in Image.OPEN if name not in REFUSED_FORMATS]


def image_suffixes() -> frozenset[str]:
    """Suffixes of image files, in lower case with the dot, of the formats that `read_image` accepts."""
    readable = set(readable_formats())
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in readable)


def too_large(name: str) -> WorldError:
    """The error for an image that would fill the memory."""
    return WorldError(f"{name} has more than {MAX_PIXELS:,} pixels: make it smaller first.")


def damaged(name: str, error: Exception) -> WorldError:
    """The error for an image that cannot be decoded."""
    reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
    return WorldError(f"{name} is damaged or truncated ({reason}): restore it or leave it out.")
