"""The machine: what a number was made with (as it goes into every summary), and which device and precision to use."""

import ctypes
import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Literal

from cifar.errors import InputError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt, in glibc's malloc.h
PACKAGES = ("cifar", "torch", "torchvision", "timm", "lightning-fabric", "numpy")


def describe_machine() -> dict[str, object]:
    """Processor, usable cores, memory in bytes, GPUs and operating system of this machine, JSON-ready."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "processor": processor_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": usable_cores(),
        "memory_bytes": memory_bytes(),
        "gpus": gpus,
        "system": f"{platform.system()} {platform.machine()}",
    }


def processor_name() -> str:
    """The processor's name as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may run on, which a container or taskset can make fewer than the machine's."""
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
    """Have the C library keep what this process frees, for its next step; other C libraries than glibc are left alone.

    glibc hands every freed tensor back to the kernel, which must then find and clear each of its pages anew when the
    next step asks for the same memory: nearly half of a step's time with large batches (`docs/log.md`).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    library.mallopt(M_MMAP_MAX, 0)  # large blocks from the heap, where they can be used again
    library.mallopt(M_TRIM_THRESHOLD, -1)  # and the heap never made smaller


def flush_denormals() -> None:
    """Count numbers too small for the usual form as 0: they slow trained convolutions 20 to 50 times (pytorch#19651).

    Torch's threads have the mode that the thread which starts them has at that moment: call this before torch computes
    anything, else it holds in the calling thread alone.
    """
    import torch

    torch.set_flush_denormal(True)


def describe_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    versions = {"python": platform.python_version()}
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
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def choose_device(name: str = "") -> str:
    """The device to run on: the one named, or the best that is present (cuda, then mps, then cpu).

    Raises:
        InputError: a name that is none of the three, or a device that this machine or this build of torch lacks.
    """
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not name:
        return next(device for device, there in present.items() if there)
    if name not in present:
        raise InputError(f"There is no device {name!r}: choose cpu, mps or cuda.")
    if not present[name]:
        there = ", ".join(device for device, there in present.items() if there)
        raise InputError(f"The device {name} is absent here: choose from {there}.")
    return name


def choose_precision(wanted: str, *, device: str) -> tuple[Literal["32-true", "bf16-mixed", "16-mixed"], str]:
    """Fabric's name of the precision that the hardware has, and a sentence where it is not what was asked ("" else).

    Processors without native bf16 are 44 to 500 times slower in it than in fp32 (pytorch#146508): never emulated.
    """
    if wanted in ("fp32", "auto") and not (wanted == "auto" and device == "cuda" and has_bf16("cuda")):
        return "32-true", ""
    if wanted in ("bf16", "auto") and has_bf16(device):
        return "bf16-mixed", ""
    if wanted == "fp16" and device == "cuda":
        return "16-mixed", ""
    return "32-true", f"This {device} has no fast {wanted}: training in fp32."


def choose_compile(wanted: str, *, device: str) -> tuple[bool, str]:
    """Whether to compile the network for training, and a sentence where that is not what was asked ("" else)."""
    if wanted == "no" or (wanted == "auto" and device != "cuda"):
        return False, ""
    compilers = (os.environ.get("CXX", "c++"), "g++", "clang++", "cl")
    if device == "cpu" and not any(shutil.which(compiler) for compiler in compilers):
        return False, "No C++ compiler is here: training without compilation."
    return True, ""


def has_bf16(device: str) -> bool:
    """Whether the device multiplies bf16 in hardware, rather than emulating it."""
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False
