"""The machine and its software (provenance, as it goes into every summary), and which device and precision to use."""

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Literal

from cifar import __version__
from cifar.errors import InputError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of mallopt, in glibc's malloc.h
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "pillow")


def describe_machine() -> dict[str, object]:
    """CPU, usable cores, memory in bytes, GPUs and operating system of this machine, JSON-ready.

    "processor_model" tells generations of one brand apart, "native_bf16" those that multiply bf16 in hardware.
    """
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "processor": cpu_field("model name") or platform.processor() or platform.machine(),
        "processor_model": " ".join(
            f"{field.removeprefix('cpu ')}{value}" for field in ("cpu family", "model") if (value := cpu_field(field))
        ),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "native_bf16": has_bf16("cpu"),
        "cores": usable_cores(),
        "memory_bytes": memory_bytes(),
        "gpus": gpus,
        "system": f"{platform.system()} {platform.machine()}",
    }


def cpu_field(name: str) -> str:
    """What Linux says of the first CPU, such as its "model name"; "" elsewhere."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.partition(":")[0].strip() == name:
                return line.partition(":")[2].strip()
    return ""


def usable_cores() -> int:
    """Cores that this process may run on: a container or taskset can leave fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """Physical memory; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def keep_memory() -> None:
    """Have glibc keep freed memory for the next step; other C libraries are left alone.

    glibc returns every large freed tensor to the kernel, which must map and clear its pages again when the next step
    asks for the same memory: nearly half of a step's time with large batches (`docs/log.md`).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    library.mallopt(M_MMAP_MAX, 0)  # large blocks from the heap, where they are used again
    library.mallopt(M_TRIM_THRESHOLD, -1)  # the heap never shrinks


def plain_matplotlib() -> None:
    """Let matplotlib be imported whatever MPLBACKEND says: pictures go to files.

    Notebooks set backends that are not installed here, with which the import fails.
    """
    if "matplotlib" not in sys.modules:
        os.environ["MPLBACKEND"] = "agg"


def return_large_blocks() -> None:
    """Have glibc return every freed block of 1 MB or more to the kernel at once; other C libraries are left alone.

    Left to itself it keeps such blocks (up to 32 MB) after the first one that is freed. In a server that decodes images
    of all sizes in several threads, smaller ones then settle between them and the heap grows for hours.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)


def return_memory() -> None:
    """Have glibc give freed memory back to the kernel; other C libraries are left alone.

    It keeps what lies between blocks in use, so that a server that decodes images in several threads grows for hours.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def flush_denormals() -> None:
    """Flush denormals to zero: they slow trained convolutions 20 to 50 times (pytorch#19651).

    PyTorch's threads inherit the mode of the thread that starts them: call this before PyTorch computes anything, else
    it holds in the calling thread alone.
    """
    import torch

    torch.set_flush_denormal(True)


def describe_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    versions = {"python": platform.python_version(), "cifar": __version__}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    return versions


def describe_commit() -> str:
    """The commit of the source tree this package runs from, with "+changes" if the tree differs; "" outside git."""
    folder = Path(__file__).resolve().parent
    # The package may be installed inside some other project's repository: only a tree that tracks this file counts.
    if not run_git(folder, "ls-files", Path(__file__).name):
        return ""
    commit = run_git(folder, "rev-parse", "HEAD")
    changed = run_git(folder, "status", "--porcelain", "--untracked-files=no")
    return commit + ("+changes" if commit and changed else "")


def run_git(folder: Path, *arguments: str) -> str:
    """What git prints, or "" where it fails or is absent."""
    try:
        done = subprocess.run(
            ["git", "-C", folder, *arguments], capture_output=True, text=True, errors="replace", timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def check_device(name: str) -> None:
    """Refuse a name that no device has, without waiting for PyTorch; "" is the best available.

    Raises:
        InputError: names the valid ones.
    """
    if name and not re.fullmatch(r"cpu|mps|cuda(:\d{1,3})?", name):
        raise InputError(f"There is no device {name!r}: choose cpu, mps or cuda (cuda:1 is the second GPU).")


def choose_device(name: str = "") -> str:
    """The device to run on: the one named, or the best available (cuda, then mps, then cpu).

    A GPU that is named by its number becomes the one that PyTorch means where no number is given.

    Raises:
        InputError: another name, or a device that this machine or this build of PyTorch lacks.
    """
    check_device(name)
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not name:
        return next(device for device, there in present.items() if there)
    kind, _, number = name.partition(":")
    num_gpus = torch.cuda.device_count() if kind == "cuda" else 0
    if not present[kind] or (number and int(number) >= num_gpus):
        there = [device for device, there in present.items() if there]
        there[1:1] = [f"cuda:{index}" for index in range(num_gpus)] if there[0] == "cuda" and num_gpus > 1 else []
        raise InputError(f"The device {name} is absent here: choose from {', '.join(there)}.")
    if number:
        torch.cuda.set_device(int(number))
    return name


def kind_of(device: str) -> str:
    """cpu, mps or cuda, of a device that may have a number."""
    return device.partition(":")[0]


def choose_precision(wanted: str, *, device: str, native: bool) -> tuple[Literal["fp32", "bf16", "fp16"], str]:
    """The precision that the hardware has, and a sentence where it is not what the recipe asks for ("" else).

    CPUs without native bf16 are 44 to 500 times slower in it than in fp32 (pytorch#146508): it is never emulated.

    Args:
        wanted: auto, fp32, bf16 or fp16. auto is bf16 where the hardware has it, except on a CPU for networks that our
            native kernels speed up more, in fp32 (`docs/log.md`).
        device: cpu, mps or cuda.
        native: whether those kernels compute this network (`kernels.build.speed_up`).
    """
    if wanted == "auto":
        return ("bf16" if has_bf16(device) and not (device == "cpu" and native) else "fp32"), ""
    if wanted == "bf16" and has_bf16(device):
        return "bf16", ""
    if wanted == "fp16" and kind_of(device) == "cuda":
        return "fp16", ""
    return "fp32", "" if wanted == "fp32" else f"This {kind_of(device)} has no fast {wanted}: training in fp32."


def choose_compile(wanted: bool, *, device: str) -> tuple[bool, str]:
    """Whether the network can be compiled for training as asked, and a sentence where it cannot ("" else).

    Args:
        wanted: whether it was asked for.
        device: cpu, mps or cuda.
    """
    compilers = (os.environ.get("CXX", "c++"), "g++", "clang++", "cl")
    if wanted and device == "cpu" and not any(shutil.which(compiler) for compiler in compilers):
        return False, "No C++ compiler is here: training without compilation."
    return wanted, ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, a CPU or a GPU had no memory left; PyTorch raises a plain RuntimeError for the CPU."""
    words = ("not enough memory", "can't allocate memory", "out of memory")
    told = isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    return isinstance(error, MemoryError) or told


def synchronise(device: str) -> None:
    """Wait until a GPU has done what it was given; a CPU has."""
    import torch

    if kind_of(device) == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def has_bf16(device: str) -> bool:
    """Whether the device multiplies bf16 in hardware; device: cpu, mps or cuda."""
    import torch

    if kind_of(device) == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def has_tf32(device: str) -> bool:
    """Whether the device multiplies fp32 in TF32, with 10 bits of mantissa, once `prepare_gpu` has allowed it."""
    import torch

    return kind_of(device) == "cuda" and torch.cuda.get_device_capability() >= (8, 0)


def prepare_gpu(*, deterministic: bool) -> None:
    """Set PyTorch up for training on a GPU: TF32, and the fastest algorithms for convolutions, or the same every time.

    Args:
        deterministic: whether two trainings have to give the same bits.
    """
    import torch

    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else sums are split differently at times
        torch.backends.cudnn.deterministic = True
        # Only a warning where PyTorch has no such algorithm: max pooling without overlap is the same every time.
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def start_gpu(device: str, *, deterministic: bool) -> None:
    """Prepare a GPU, and have it and its libraries start in the background, which takes seconds; else do nothing.

    Args:
        device: cpu, mps or cuda.
        deterministic: as of `prepare_gpu`.
    """
    if kind_of(device) != "cuda":
        return
    import torch

    prepare_gpu(deterministic=deterministic)

    def start() -> None:
        with contextlib.suppress(RuntimeError):  # whoever computes there next is told
            ones = torch.ones(8, 8, 8, 8, device=device)
            torch.nn.functional.conv2d(ones, ones).flatten(1) @ torch.ones(8, 1, device=device)

    threading.Thread(target=start, daemon=True).start()


def keep_compiled() -> None:
    """Have torch.compile keep what it made in our cache folder, where no clean-up of temporary files takes it."""
    from cifar.files import cache_folder

    folder = cache_folder() / "compiled"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))
