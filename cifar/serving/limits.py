"""How much the demo accepts, and how much memory an image may need wherever it is read."""

from typing import IO

from PIL import Image

MAX_BYTES = 10 * 2**20  # of an uploaded file
MAX_WAITING = 100  # requests; further ones are refused with 503
CONCURRENCY = 1  # requests computed at a time; a network already uses all cores
KEPT_SECONDS = 600  # after which uploads are deleted
MAX_STORED = 500 * 10**6  # bytes of uploads on the disk; further ones are refused with 507
COUNT_SECONDS = 10  # between two counts of them, which take a third of a second for thousands of files
MAX_IN_FLIGHT = 100 * 10**6  # bytes of requests that are being received; further ones are refused with 503
MAX_CONNECTIONS = 200  # at a time
HEADER_SECONDS = 10  # in which a request has to begin and its headers to end
KEEP_ALIVE_SECONDS = 20  # between requests: longer than clients keep a connection, which would meet one that closes
BODY_SECONDS = 120  # in which the rest has to arrive: 10 MB at 90 kB/s
SESSIONS = 100  # whose state Gradio keeps: every request from a program is one

MAX_MEMORY = 400 * 10**6  # bytes to decode one image: 20 megapixels in the most wasteful formats that cameras write
MAX_FILE = 200 * 10**6  # bytes: some decoders read the whole file first
MAX_SIDE = 65_535  # pixels: the most that JPEG can say
# Bytes per pixel while an image is decoded, as measured: Pillow's own are 4, some libraries hold the image up to six
# times. Every other format is refused: EPS and WMF would run programs, some Pillow only recognises, in others one image
# contains another of any size. QOI's decoder is written in Python: its figure keeps the time below a few seconds.
BYTES = {
    "AVIF": 24, "BMP": 4, "DIB": 4, "GIF": 4, "JPEG": 12, "JPEG2000": 28, "MPO": 12, "PNG": 4, "PPM": 12, "QOI": 100,
    "TGA": 8, "TIFF": 20, "WEBP": 20,
}  # fmt: skip
ROWWISE_JPEG = 4  # one that holds no coefficients, as most do


def decoding_bytes(image: Image.Image) -> int:
    """Memory that decoding an opened image needs, in bytes; 0 where it is decoded already."""
    file: IO[bytes] | None = getattr(image, "fp", None)
    if file is None:
        return 0
    num_pixels = image.width * image.height
    if image.format == "TIFF":  # a tile may be larger than the image
        tags = image.tag_v2  # type: ignore[attr-defined]
        num_pixels = max(num_pixels, int(tags.get(322, 0)) * int(tags.get(323, 0)))
    rowwise = image.format in ("JPEG", "MPO") and is_rowwise(file)
    return num_pixels * (ROWWISE_JPEG if rowwise else BYTES.get(image.format or "", 4))


def is_rowwise(file: IO[bytes]) -> bool:
    """Whether a JPEG can be decoded row by row: sequential, with all channels in the first scan.

    Of all others libjpeg holds the coefficients of the whole image.
    """
    file.seek(2)
    channels = 0
    while len(head := file.read(4)) == 4 and head[0] == 0xFF:  # what is written in any other way counts as the worst
        body = file.read(max(0, int.from_bytes(head[2:]) - 2))
        if head[1] in (0xC0, 0xC1) and len(body) > 5:
            channels = body[5]
        elif head[1] == 0xDA:  # the first scan begins
            return body[:1] == bytes([channels])
    return False
