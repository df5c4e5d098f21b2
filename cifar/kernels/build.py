"""Compiles the C sources of this folder for this CPU when they are first needed, keeps the libraries, and calls them.

A compilation takes about a second. Libraries are kept in the cache folder, by everything that they depend on, the CPU
included, since a cache may be shared by machines. PyTorch's OpenMP is loaded already, so kernels share its threads.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from cifar.errors import InputError, Remark
from cifar.files import cache_folder, write_bytes

FOLDER = Path(__file__).parent
HEADER = "vectors.h"
NATIVE_CPU = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
FLAGS = ("-O3", NATIVE_CPU, "-fno-math-errno", "-shared", "-fPIC")
OPENMP = "-fopenmp"
LANES = 8  # channels that the sources take at a time
KINDS = ("native", "pytorch")
VARIABLE = "CIFAR_KERNELS"
NO_MEMORY = 1  # as in vectors.h
SLOWER = "training on this CPU takes about twice as long"


def enabled() -> bool:
    """Whether native kernels are to be used, by the environment variable CIFAR_KERNELS: "native", the default.

    Raises:
        InputError: it is neither "native" nor "pytorch".
    """
    kind = os.environ.get(VARIABLE) or KINDS[0]
    if kind not in KINDS:
        raise InputError(f"{VARIABLE} is {kind!r}: choose from {', '.join(KINDS)}.")
    return kind == "native"


@contextlib.contextmanager
def using(kind: str) -> Iterator[None]:
    """Set CIFAR_KERNELS for a while, for this process and those that it starts meanwhile.

    Args:
        kind: "native" or "pytorch".

    Raises:
        InputError: another kind.
    """
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = kind
    try:
        enabled()  # raises
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def available() -> bool:
    """Whether native kernels are enabled and can be compiled here; if they cannot, a `Remark` says why."""
    return enabled() and library("norm_gelu.c") is not None


def fits(features: Tensor, *parameters: Tensor, multiple: int = LANES) -> bool:
    """Whether native kernels are enabled and take these tensors.

    Args:
        features: must be fp32 [N, C, H, W] in channels-last memory of a CPU, N at least 1.
        parameters: must be fp32 on a CPU.
        multiple: C must be a multiple of it.
    """
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and all(is_plain(tensor) for tensor in (features, *parameters))
        and features.dim() == 4
        and features.shape[1] % multiple == 0
        and features.is_contiguous(memory_format=torch.channels_last)
        and len(features) > 0
        and not torch.is_autocast_enabled("cpu")
        and enabled()
    )


def is_plain(tensor: Tensor) -> bool:
    """Whether this is fp32 on a CPU, and no subclass of a tensor, such as one without memory."""
    return tensor.is_cpu and tensor.dtype == torch.float32 and type(tensor) in (Tensor, nn.Parameter)


def call(compiled: ctypes.CDLL, function: str, *tensors: Tensor | None, sizes: tuple[int, ...], threads: int) -> None:
    """Call a function of a compiled source.

    Args:
        tensors: whose addresses come first; NULL for None.
        sizes: and then these numbers.
        threads: and last, how many threads to use; at most so many are.

    Raises:
        MemoryError: the function has no memory for its buffers.
    """
    addresses = [ctypes.c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors]
    code = getattr(compiled, function)(*addresses, *(ctypes.c_long(size) for size in (*sizes, threads)))
    if code == NO_MEMORY:
        raise MemoryError(f"There is no memory for the buffers of {function}: choose a smaller batch size.")


@functools.cache
def library(source: str, *definitions: str) -> ctypes.CDLL | None:
    """A source of this folder, compiled; None where that fails, which a `Remark` says once in a process.

    Args:
        source: a file's name.
        definitions: arguments for the compiler, such as "-DOUT=8".
    """
    command = compiler_command()
    if not shutil.which(command[0]):
        remark(f"There is no C compiler ({command[0]}) here, so {SLOWER}: install one, or set CC to yours.")
        return None
    complaint = ""
    for openmp in ((OPENMP,), ()):
        arguments = (*command, *FLAGS, *openmp, *definitions)
        kept = kept_path(source, arguments)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "kernel.so"
            compiled = load(kept)[0] if kept and is_trusted(kept) else None
            if compiled is None:
                complaint = compile_source(source, arguments, path)
                if complaint:
                    continue
                if kept and keep(path, kept):
                    compiled, complaint = load(kept)
            if compiled is None:  # nothing is kept, or its disk forbids to execute
                compiled, complaint = load(path)
        if compiled is None:
            remark(f"The compiled {source} cannot be loaded, so {SLOWER}: {complaint}")
        elif not compiled.uses_openmp():
            remark(f"{command[0]} has no OpenMP, so native kernels run on one thread, which is slower: {openmp_hint()}")
        return compiled
    remark(f"The C compiler {command[0]} fails on {source}, so {SLOWER}: {complaint}")
    return None


@functools.cache
def remark(sentence: str) -> None:
    """Warn, once in a process."""
    warnings.warn(sentence, Remark, stacklevel=2)


def openmp_hint() -> str:
    """How to get a compiler with OpenMP; on macOS with PyTorch's own library, of which there must not be two."""
    otherwise = "or, with many cores, CIFAR_KERNELS=pytorch."
    if platform.system() != "Darwin":
        return f"set CC to a compiler that has, such as gcc, {otherwise}"
    folder = Path(torch.__file__).parent / "lib"
    flags = f"-Xclang -fopenmp -I$(brew --prefix libomp)/include -L{folder} -Wl,-rpath,{folder} -lomp"
    return f'`brew install libomp`, then `export CC="clang {flags}"`, {otherwise}'


def compiler_command() -> list[str]:
    """The C compiler and its arguments: $CC, as a shell would split it, or cc."""
    given = os.environ.get("CC", "")
    try:
        return shlex.split(given) or ["cc"]
    except ValueError:  # a quote without its other one
        return [given]


def compile_source(source: str, arguments: tuple[str, ...], path: Path) -> str:
    """Compile a source of this folder to a library at the path; the first line of what is wrong, "" if nothing is."""
    try:
        command = [*arguments, str(FOLDER / source), "-o", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line.lower()]
    return [*errors, *lines, f"it exits with {done.returncode}"][0]


def load(path: Path) -> tuple[ctypes.CDLL | None, str]:
    """The library at the path, or why it cannot be loaded."""
    try:
        return ctypes.CDLL(str(path)), ""
    except OSError as error:
        return None, str(error).removeprefix(f"{path}: ")


def kept_path(source: str, arguments: tuple[str, ...]) -> Path | None:
    """Where the library of this source is kept, if it is, by all that it depends on; None where nothing can be kept."""
    digest = hashlib.sha256()
    for part in ((FOLDER / source).read_bytes(), (FOLDER / HEADER).read_bytes(), *map(str.encode, arguments)):
        digest.update(len(part).to_bytes(8, "big") + part)
    digest.update(repr([*filter(None, map(file_identity, arguments)), cpu_identity()]).encode())
    try:
        folder = cache_folder() / "kernels"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_own(folder):
            return None
        folder.chmod(0o700)
    except (OSError, RuntimeError):  # the latter where there is no home
        return None
    return folder / f"{Path(source).stem}-{digest.hexdigest()[:32]}.so"


def file_identity(name: str) -> tuple[str, int, int] | None:
    """Path, bytes and time of a program on the PATH: another version has others; None where there is none."""
    found = shutil.which(name)
    if found is None:
        return None
    path = Path(found).resolve()
    state = path.stat()
    return str(path), state.st_size, state.st_mtime_ns


@functools.cache
def cpu_identity() -> tuple[str, ...]:
    """What "native" depends on: the machine's kind and, on Linux, the CPU's model and instructions."""
    fields = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "Features")
    try:
        first = Path("/proc/cpuinfo").read_text(errors="replace").partition("\n\n")[0]
    except OSError:
        first = ""
    return platform.machine(), *(line for line in first.splitlines() if line.partition(":")[0].strip() in fields)


def keep(path: Path, kept: Path) -> bool:
    """Copy a library to where it is kept, whole; whether that worked."""
    try:
        write_bytes(kept, path.read_bytes())
        return is_trusted(kept)
    except OSError:
        return False


def is_trusted(path: Path) -> bool:
    """Whether there is a file that this user alone can have written, in a folder of which the same holds."""
    try:
        return path.is_file() and is_own(path) and is_own(path.parent)
    except OSError:
        return False


def is_own(path: Path) -> bool:
    """Whether this is no link, belongs to this user, and no other may write it; always, where users have no numbers."""
    if not hasattr(os, "getuid"):
        return True
    state = path.lstat()
    return not stat.S_ISLNK(state.st_mode) and state.st_uid == os.getuid() and not state.st_mode & 0o022
