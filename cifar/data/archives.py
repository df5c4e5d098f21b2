"""The wanted members of a tar or zip archive, read in memory within limits; nothing is extracted.

A tar archive is read once from front to end, header by header, since `tarfile` reads extended headers of any size, and
some for ever; `zipfile` reads the table of a zip archive through a file that refuses to give it more than it may have.
"""

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from cifar.data import in_words
from cifar.data.reading import REMEDY, open_regular
from cifar.errors import WorldError

MAX_BYTES = 320 * 2**20  # decompressed, of the whole archive; the official one has 186 MB
MAX_MEMBER_BYTES = 64 * 2**20  # the largest official file has 31 MB, which Python 3 pickles as 46 MB in protocol 2
MAX_MEMBERS = 130_000  # 60,000 images in class folders, each with a dot file where macOS packed them
MAX_HEADER_BYTES = 8192  # of a name in an extended header
MAX_TABLE_BYTES = 16 * 2**20  # of a zip archive: of 60,000 members it has 8 MB
CHUNK = 2**20

Members = list[tuple[PurePosixPath, bytes]]
IsWanted = Callable[[PurePosixPath], bool]


class TooLargeError(ValueError):
    """An archive exceeds a limit."""


def read_archive(path: Path, is_wanted: IsWanted) -> Members:
    """The wanted regular files in a tar archive (plain, gzip, bzip2, xz) or a zip archive, in its order.

    Args:
        path: of the archive.
        is_wanted: says it of a member's path.

    Returns:
        paths in the archive, and contents.

    Raises:
        WorldError: it is damaged, truncated, encrypted, too large, or no archive, or a member would leave the folder.
    """
    fault = "is damaged or truncated"
    try:
        with open_regular(path) as file:
            magic = file.read(6)
            if magic[:2] not in (b"PK", b"\x1f\x8b", b"BZ", b"\xfd7"):
                fault = "is neither a tar nor a zip archive, or it is damaged or truncated"
            file.seek(0)
            if magic.startswith(b"PK"):
                return read_zip(file, path, is_wanted)
            with decompressed(file, magic) as stream:
                return read_tar(stream, path, is_wanted)
    except WorldError:
        raise
    except TooLargeError as error:
        raise WorldError(f"{in_words(path)} {error}, more than any archive of CIFAR-10: {REMEDY}.") from None
    except MemoryError:
        raise WorldError(f"{in_words(path)} does not fit into the memory: {REMEDY}.") from None
    except Exception as error:  # of a damaged archive, its modules raise eleven kinds of errors
        text = str(getattr(error, "strerror", None) or error)
        reason = (text.splitlines() or [""])[0].rstrip(":.") or type(error).__name__
        raise WorldError(f"{in_words(path)} {fault} ({in_words(reason[:100])}): {REMEDY}.") from None


def decompressed(file: IO[bytes], magic: bytes) -> IO[bytes]:
    """A stream of the decompressed bytes; one without a known magic number is taken as it is."""
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if magic.startswith(b"\xfd7zXZ"):
        return lzma.LZMAFile(file)
    return file


@dataclass
class Budget:
    """Bytes and members that an archive may still have."""

    num_bytes: int = field(default_factory=lambda: MAX_BYTES)
    num_members: int = field(default_factory=lambda: MAX_MEMBERS)

    def spend(self, num_bytes: int) -> None:
        """Count bytes before they are read.

        Raises:
            TooLargeError: the archive has more than it may.
        """
        self.num_bytes -= num_bytes
        if self.num_bytes < 0:
            raise TooLargeError(f"has more than {MAX_BYTES / 1e6:,.0f} MB of content")

    def count_member(self) -> None:
        """Count a member before it is looked at.

        Raises:
            TooLargeError: the archive has more than it may.
        """
        self.num_members -= 1
        if self.num_members < 0:
            raise TooLargeError(f"has more than {MAX_MEMBERS:,} members")


def read_exactly(stream: IO[bytes], num_bytes: int, *, keep: bool = True) -> bytes:
    """So many bytes, read a little at a time; b"" if they are not to be kept.

    Raises:
        EOFError: the stream ends before.
    """
    chunks = []
    while num_bytes:
        chunk = stream.read(min(num_bytes, CHUNK))
        if not chunk:
            raise EOFError("unexpected end of data")
        num_bytes -= len(chunk)
        if keep:
            chunks.append(chunk)
    return b"".join(chunks)


def read_tar(stream: IO[bytes], path: Path, is_wanted: IsWanted) -> Members:
    """The wanted members of an uncompressed tar archive; see `read_archive`."""
    members: Members = []
    budget, long_name = Budget(), ""
    while (member := next_header(stream)) is not None:
        budget.count_member()
        if member.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
            keep = member.size <= MAX_HEADER_BYTES
            header = read_padded(stream, member.size, budget, keep=keep)
            long_name = (pax_path(header) if member.type == tarfile.XHDTYPE else text_of(header)) or long_name
            continue
        name, long_name = long_name or member.name, ""
        refused = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.GNUTYPE_SPARSE)
        check_member(path, name, is_plain=member.type not in refused)
        if member.type in (tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE):
            continue  # without content
        keep = member.isreg() and is_wanted(PurePosixPath(name))
        if keep and member.size > MAX_MEMBER_BYTES:
            raise TooLargeError(f"has a member of {member.size:,} bytes")
        content = read_padded(stream, member.size, budget, keep=keep)
        if keep:
            members.append((PurePosixPath(name), content))
    return members


def next_header(stream: IO[bytes]) -> tarfile.TarInfo | None:
    """The header of the next member; None at the end of the archive."""
    block = stream.read(tarfile.BLOCKSIZE)
    if not block or not block.strip(b"\0"):
        return None
    member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    if member.size < 0:
        raise ValueError("a negative size")
    return member


def read_padded(stream: IO[bytes], num_bytes: int, budget: Budget, *, keep: bool) -> bytes:
    """The content of a member, whose last block is filled up."""
    padding = -num_bytes % tarfile.BLOCKSIZE
    budget.spend(num_bytes + padding)
    content = read_exactly(stream, num_bytes, keep=keep)
    read_exactly(stream, padding, keep=False)
    return content


def pax_path(header: bytes) -> str:
    """The path in an extended header, a sequence of records "LENGTH KEY=VALUE\\n"; "" if it has none."""
    path = ""
    while header:
        length, _, record = header.partition(b" ")
        size = int(length) if len(length) < 6 and length.isdigit() else 0
        if size <= len(length):
            break
        key, _, value = record[: size - len(length) - 1].partition(b"=")
        if key == b"path":
            path = text_of(value)
        header = header[size:]
    return path


def text_of(name: bytes) -> str:
    """A name of a header as text."""
    return name.rstrip(b"\n").partition(b"\0")[0].decode("utf-8", "surrogateescape")


def check_member(path: Path, name: str, *, is_plain: bool) -> None:
    """Refuse a member that would leave the folder if it were extracted, since its archive is not to be trusted.

    Args:
        path: of the archive.
        name: of the member.
        is_plain: whether it is no link, sparse file or device.

    Raises:
        WorldError: names it.
    """
    if not is_plain or name.startswith("/") or ".." in PurePosixPath(name).parts or "\\" in name:
        raise WorldError(
            f"{in_words(path)}: its member {name[:100]!a} would leave the folder, or is no plain file, and is refused: "
            f"{REMEDY}."
        )


class Guarded(io.BufferedReader):
    """A file that refuses to be read in pieces larger than the table of a zip archive may be."""

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(MAX_TABLE_BYTES + 1 if size is None or size < 0 else min(size, MAX_TABLE_BYTES + 1))
        if len(content) > MAX_TABLE_BYTES:
            raise TooLargeError(f"has a table of more than {MAX_TABLE_BYTES / 1e6:,.0f} MB")
        return content


def read_zip(file: IO[bytes], path: Path, is_wanted: IsWanted) -> Members:
    """The wanted members of a zip archive; see `read_archive`."""
    members: Members = []
    budget = Budget()
    with zipfile.ZipFile(Guarded(io.FileIO(file.fileno(), closefd=False))) as archive:
        for member in archive.infolist():
            budget.count_member()
            kind = stat.S_IFMT(member.external_attr >> 16)
            check_member(path, member.filename, is_plain=kind in (0, stat.S_IFREG, stat.S_IFDIR))
            if member.is_dir() or not is_wanted(PurePosixPath(member.filename)):
                continue
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("compressed otherwise than by deflate")
            if member.file_size > MAX_MEMBER_BYTES:
                raise TooLargeError(f"has a member of {member.file_size:,} bytes")
            budget.spend(member.file_size)
            with archive.open(member) as stream:
                members.append((PurePosixPath(member.filename), read_exactly(stream, member.file_size)))
    return members
