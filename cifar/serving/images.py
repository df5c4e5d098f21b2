"""Pictures of any size and kind to the 32×32 pixels that every network takes: the only place where that happens."""

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
MOST_PIXELS = 89_478_485  # a quarter of a GiB in RGB: Pillow's own limit, which is an error here and no warning
# EPS would start Ghostscript on a stranger's program, the others are only recognised by Pillow, not decoded.
REFUSED_FORMATS = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"})

Source = str | Path | IO[bytes] | Image.Image

# The filters of `warnings` belong to the whole process: two threads that change them at once would leave them changed.
_filters = threading.Lock()


def read_image(source: Source) -> Tensor:
    """A picture as the networks want it: upright, opaque, RGB, the square in its middle, 32×32.

    1. Of several frames or pages the first; turned upright as its EXIF says; embedded colour profiles are not applied.
    2. To 8 bits a channel, see `eight_bits`; transparency onto white; then any colour space to RGB, by Pillow.
    3. The greatest square in the middle; of an odd remainder the smaller half is cut off on the left or at the top.
    4. Antialiased to 32×32 by Pillow's LANCZOS: at any ratio it keeps nearly all detail that 32 pixels can hold and
       folds next to none of the finer into false patterns. A BOX folds more, and is the nearest neighbour upwards.

    A 32×32 RGB picture comes out bit for bit.

    Args:
        source: a path, a file opened in binary mode, or a picture of Pillow, which is left as it is.

    Returns:
        uint8 [3, 32, 32].

    Raises:
        InputError: there is no such file.
        WorldError: not an image that Pillow reads, truncated, damaged, or of more than 89,478,485 pixels.
    """
    if isinstance(source, Image.Image):
        return decode(source, name="the image")
    name = f"{source}" if isinstance(source, str | Path) else "the image"
    try:
        if isinstance(source, str | Path) and not Path(source).is_file():
            if not Path(source).exists():
                raise InputError(f"There is no file {name}.")
            raise WorldError(f"{name} is no file but a folder, device or pipe: name an image file.")
        # Only the header is read here, so that the lock is held for a moment.
        with _filters, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # such as on a damaged EXIF, which does no harm
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
    except Exception as error:  # each of Pillow's forty formats fails in its own way on a damaged header
        raise damaged(name, error) from None
    with image:
        return decode(image, name=name)


def decode(image: Image.Image, *, name: str) -> Tensor:
    """`read_image` of an opened picture; `name` is for its errors."""
    if image.width * image.height > MOST_PIXELS:
        raise too_large(name)
    try:
        image.load()
        return square(to_rgb(upright(image)))
    except Image.DecompressionBombError:
        raise too_large(name) from None
    except WorldError as error:
        raise WorldError(f"{name} {error}") from None
    except Exception as error:  # as above, on damaged pixels
        raise damaged(name, error) from None


def upright(image: Image.Image) -> Image.Image:
    """A picture turned as its EXIF says; as it is stored where that is damaged, for the pixels are whole."""
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except Exception:  # Pillow parses it only now, and has many ways to fail
        return image
    return ImageOps.exif_transpose(image) if turned else image


def square(image: Image.Image) -> Tensor:
    """The square in the middle of an RGB picture, resized: uint8 [3, 32, 32]."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    small = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=box)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()  # [3, 32, 32]


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB, what is transparent on white."""
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(eight_bits(np.asarray(image), mode=image.mode))
    if image.mode == "La":
        image = image.convert("LA")  # Pillow has no shorter way from grey with premultiplied transparency
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def eight_bits(values: NDArray[np.generic], *, mode: str) -> NDArray[np.uint8]:
    """Grey values of more than 8 bits, scaled linearly so that white becomes 255, and rounded.

    In the modes I;16… white is 65,535. The modes I (32-bit whole numbers) and F (floats) do not say what white is: it
    is the first of 1 (F only), 255 and 65,535 that no value exceeds. With a negative or greater value, as in
    measurements, black is the least value and white the greatest.

    Args:
        values: [H, W]; mode: of Pillow.

    Raises:
        WorldError: a value is not finite.
    """
    grey = values.astype(np.float32)  # exact up to 2²⁴, and half as large as float64
    if not np.isfinite(grey).all():
        raise WorldError("holds values that are not finite: save it as 8 or 16 bits.")
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
    """Pillow's names of the formats that are read here."""
    Image.init()
    return [name for name in Image.OPEN if name not in REFUSED_FORMATS]


def image_suffixes() -> frozenset[str]:
    """What the names of image files end in, in lower case with the dot: those of the formats that are read here."""
    readable = set(readable_formats())
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in readable)


def too_large(name: str) -> WorldError:
    """The error of a picture that would fill the memory."""
    return WorldError(f"{name} has more than {MOST_PIXELS:,} pixels: make it smaller first.")


def damaged(name: str, error: Exception) -> WorldError:
    """The error of a picture that cannot be decoded."""
    reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
    return WorldError(f"{name} is damaged or truncated ({reason}): restore it or leave it out.")
