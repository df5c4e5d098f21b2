"""Large float32 arrays in the cache: a file in numpy's format with its SHA-256 as the last 32 bytes.

It is written with ordinary writes, since a full disk kills a process that writes through a memory map; it is verified
once, when it is opened, and then mapped. Verifying costs what SHA-256 costs: for the 150 MB of vectors of 50,000
images 0.1 s where the CPU has instructions for it, else up to half a second; for 30 GB of tokens as many seconds.
"""

import hashlib
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from cifar.files import write_whole

DIGEST_BYTES = 32
CHUNK = 2**20


def save_array(path: Path, shape: tuple[int, ...], blocks: Iterable[NDArray[np.float32]]) -> None:
    """Write an array, whole or not at all.

    Args:
        path: of the file.
        shape: of the array.
        blocks: its rows, in order, float32 [n, …].

    Raises:
        OSError: as the system gives it, such as of a full disk.
    """

    def write(file: IO[bytes]) -> None:
        num_rows = 0
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
        digest = hashlib.sha256(header.getvalue())
        file.write(header.getvalue())
        for block in blocks:
            assert block.shape[1:] == shape[1:], block.shape
            data = np.ascontiguousarray(block, "<f4").data.cast("B")
            digest.update(data)
            file.write(data)
            num_rows += len(block)
        assert num_rows == shape[0], num_rows
        file.write(digest.digest())

    write_whole(path, write)


def load_array(path: Path, num_rows: int) -> NDArray[np.float32] | None:
    """An array, mapped from the disk: read as it is needed, and writable in memory only.

    Args:
        path: of a file that `save_array` wrote.
        num_rows: that it has to have.

    Returns:
        float32 [num_rows, …]; None where there is no file, or it is damaged, or has another number of rows.

    Raises:
        OSError: the file is there and the system does not give it.
    """
    if not path.is_file():
        return None
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size - DIGEST_BYTES
        while left > 0 and (chunk := file.read(min(left, CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
        if left or file.read() != digest.digest():
            return None
    rows: NDArray[np.float32] = np.load(path, mmap_mode="c")
    return rows if len(rows) == num_rows else None
