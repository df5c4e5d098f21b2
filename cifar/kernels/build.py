"""Compiles the C sources of this folder for this CPU when they are first needed, has them kept, and calls them.

A compilation takes about a second. PyTorch's OpenMP is loaded already, so kernels share its threads.
"""

import contextlib
import ctypes
import functools
import os
import platform
import shlex
import shutil
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cifar.errors import InputError, Remark
from cifar.kernels.kept import find_kept, keep, kept_name

FOLDER = Path(__file__).parent
HEADER = "vectors.h"
NATIVE_CPU = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
FLAGS = ("-O3", NATIVE_CPU, "-fno-math-errno", "-shared", "-fPIC")
OPENMP = "-fopenmp"
LANES = 8  # channels that the sources take at a time
NETWORKS = ("cnn", "resnet", "speednet")  # the beginnings of names of networks that native kernels compute
KINDS = ("native", "pytorch")
VARIABLE = "CIFAR_KERNELS"
COMPILER_SECONDS = 60.0  # one takes about a second
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


def speed_up(model: str) -> bool:
    """Whether native kernels compute the network of this name here, and faster than PyTorch does in any precision."""
    return model.startswith(NETWORKS) and available()


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
    try:
        compiled = find_or_compile(source, command, definitions)
    except CompilerError as error:
        remark(f"The C compiler {command[0]} fails on {source}, so {SLOWER}: {error}")
    except OSError as error:  # no folder for it, no room, or no library
        remark(f"The compiled {source} cannot be loaded, so {SLOWER}: {error}")
    else:
        if not compiled.uses_openmp():
            remark(f"{command[0]} has no OpenMP, so native kernels run on one thread, which is slower: {openmp_hint()}")
        return compiled
    return None


def find_or_compile(source: str, command: Sequence[str], definitions: Sequence[str]) -> ctypes.CDLL:
    """The library that is kept, else a new one, without OpenMP where the compiler has none.

    Raises:
        CompilerError: the compiler fails.
        OSError: there is no place to compile in, or the library cannot be loaded.
    """
    for openmp in ((OPENMP,), ()):
        arguments = (*command, *FLAGS, *openmp, *definitions)
        kept = kept_name((FOLDER / source, FOLDER / HEADER), arguments)
        for path in find_kept(kept) if kept else ():
            with contextlib.suppress(OSError):
                return load(path)
        with tempfile.TemporaryDirectory(prefix="cifar-", ignore_cleanup_errors=True) as folder:
            path = Path(folder) / "kernel.so"
            try:
                compile_source(source, arguments, path)
            except CompilerError as error:
                if error.refused and openmp:
                    continue
                raise
            if kept:
                with contextlib.suppress(OSError):  # nothing can be kept, or its disk forbids to execute
                    return load(keep(path, kept))
            return load(path)
    raise AssertionError("the last attempt returns or raises")


class CompilerError(Exception):
    """Why the compiler gives no library, in a line; `refused` if it said so itself, rather than hung or was killed."""

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


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


def compile_source(source: str, arguments: Sequence[str], path: Path) -> None:
    """Compile a source of this folder to a library at the path.

    Raises:
        CompilerError: with the first line of what is wrong.
    """
    code, text = run_compiler([*arguments, str(FOLDER / source), "-o", str(path)])
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line.lower()]
    if code:
        raise CompilerError([*errors, *lines, f"it {ending(code)}"][0], refused=code > 0)


def run_compiler(command: Sequence[str]) -> tuple[int, str]:
    """The exit code of a compiler and what it says.

    It has a session of its own, so that Ctrl-C, which goes to all programs of a terminal, does not end it half-way; and
    is ended with all that it started when we stop waiting.

    Raises:
        CompilerError: it cannot be started, or takes too long.
    """
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    try:
        with subprocess.Popen(command, stdin=null, stdout=null, stderr=pipe, start_new_session=True) as process:
            try:
                _, text = process.communicate(timeout=COMPILER_SECONDS)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
                process.wait()
                raise
    except subprocess.TimeoutExpired:
        raise CompilerError(f"it takes longer than {COMPILER_SECONDS:g} seconds") from None
    except (OSError, ValueError) as error:
        raise CompilerError(str(error)) from None
    return process.returncode, text.decode(errors="replace")


def ending(code: int) -> str:
    """How a process ended, by its exit code as Python gives it."""
    return f"exits with {code}" if code > 0 else f"was ended by signal {-code}"


def load(path: Path) -> ctypes.CDLL:
    """The library at the path.

    Raises:
        OSError: why it cannot be loaded.
    """
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise OSError(str(error).removeprefix(f"{path}: ")) from None
    if not hasattr(library, "uses_openmp"):
        raise OSError("it is another library")
    return library
