import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from cifar import machine
from cifar.errors import InputError


def test_descriptions_fit_into_json() -> None:
    described = json.loads(json.dumps(machine.describe_machine()))
    assert described["cores"] >= 1
    assert described["memory_bytes"] > 1e8
    assert described["processor"]
    assert set(machine.describe_versions()) == {"python", "cifar", *machine.PACKAGES}


def test_the_commit_is_that_of_this_tree() -> None:
    root = Path(__file__).parent.parent
    done = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True)
    assert machine.describe_commit().partition("+")[0] == (done.stdout.strip() if done.returncode == 0 else "")
    assert machine.run_git(Path("/nonexistent"), "status") == ""


@pytest.mark.parametrize(
    "wanted, device, bf16, expected, speaks",
    [
        ("fp32", "cpu", True, "fp32", False),
        ("fp32", "cuda", True, "fp32", False),
        ("auto", "cpu", True, "bf16", False),
        ("auto", "cpu", False, "fp32", False),
        ("auto", "cuda", True, "bf16", False),
        ("auto", "cuda", False, "fp32", False),
        ("bf16", "cpu", True, "bf16", False),
        ("bf16", "cpu", False, "fp32", True),
        ("bf16", "mps", False, "fp32", True),
        ("fp16", "cpu", True, "fp32", True),
        ("fp16", "cuda", True, "fp16", False),
    ],
)
def test_precision_only_where_the_hardware_has_it(
    wanted: str, device: str, bf16: bool, expected: str, speaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "has_bf16", lambda _: bf16)
    precision, sentence = machine.choose_precision(wanted, device=device, native=False)
    assert (precision, bool(sentence)) == (expected, speaks)
    assert not sentence or ("fp32" in sentence and wanted in sentence)


def test_auto_is_fp32_on_a_cpu_where_native_kernels_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_bf16", lambda _: True)
    assert machine.choose_precision("auto", device="cpu", native=True) == ("fp32", "")
    assert machine.choose_precision("auto", device="cuda:1", native=True) == ("bf16", "")


def test_bf16_on_a_cpu_is_what_the_flags_say() -> None:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists() or "flags" not in cpuinfo.read_text():
        pytest.skip("this system does not list its processor's instructions")
    flags = cpuinfo.read_text().split("flags", 1)[1].splitlines()[0].split()
    assert machine.has_bf16("cpu") == ("avx512_bf16" in flags or "amx_tile" in flags)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.choose_device("cpu") == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert machine.choose_device() == "cuda"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert machine.choose_device() == "mps"
    with pytest.raises(InputError, match="cuda is absent"):
        machine.choose_device("cuda")
    for name in ("gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "cuda 1", "cuda:1\n"):
        with pytest.raises(InputError, match="cpu, mps or cuda"):
            machine.choose_device(name)


def test_one_of_several_gpus_is_chosen_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    assert machine.choose_device("cuda:1") == "cuda:1"
    assert machine.choose_device("cuda") == "cuda"
    assert chosen == [1]
    with pytest.raises(InputError, match="cuda:2 is absent here: choose from cuda, cuda:0, cuda:1, cpu"):
        machine.choose_device("cuda:2")
    assert machine.choose_precision("fp16", device="cuda:1", native=False) == ("fp16", "")
    assert [machine.kind_of(device) for device in ("cpu", "mps", "cuda", "cuda:1")] == ["cpu", "mps", "cuda", "cuda"]


PREPARED = """
import os, torch
from cifar.machine import prepare_gpu
prepare_gpu(deterministic=False)
print(torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32)
print(torch.are_deterministic_algorithms_enabled(), "CUBLAS_WORKSPACE_CONFIG" in os.environ)
prepare_gpu(deterministic=True)
print(torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, os.environ["CUBLAS_WORKSPACE_CONFIG"])
print(torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory)
"""


def test_a_gpu_is_prepared_without_a_word() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    done = subprocess.run([sys.executable, "-c", PREPARED], capture_output=True, text=True, env=environment)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["high True True", "False False", "False True :4096:8", "True False"]


@pytest.mark.parametrize(
    "wanted, device, compiler, expected, speaks",
    [
        (False, "cuda", True, False, False),
        (False, "cpu", False, False, False),
        (True, "cpu", True, True, False),
        (True, "cpu", False, False, True),
        (True, "cuda", False, True, False),
    ],
)
def test_compilation_where_it_was_asked_for_and_can_be_had(
    wanted: bool, device: str, compiler: bool, expected: bool, speaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/compiler" if compiler and name == "g++" else None)
    compiled, sentence = machine.choose_compile(wanted, device=device)
    assert (compiled, bool(sentence)) == (expected, speaks)


FAULTS = """
import ctypes, resource
from cifar.machine import keep_memory
library = ctypes.CDLL(None)
library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def faults():  # while 64 MB are asked for, written and freed
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = library.malloc(1 << 26)
    ctypes.memset(block, 1, 1 << 26)
    library.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
handed_back = [faults(), faults()]
keep_memory()
print(*handed_back, faults(), faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_freed_memory_is_kept() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    *handed_back, first, second = map(int, done.stdout.split())
    assert min(*handed_back, first) > 16  # a page at least of every 4 MB, however large pages are here
    assert second < 16


LARGE = """
import ctypes, sys
from pathlib import Path
from cifar.machine import return_large_blocks
library = ctypes.CDLL(None)
library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def resident():  # pages
    return int(Path("/proc/self/statm").read_text().split()[1])
if sys.argv[1] == "return":
    return_large_blocks()
library.free(library.malloc(3 << 23))  # the first large block that is freed raises the threshold
block = library.malloc(1 << 24)
ctypes.memset(block, 1, 1 << 24)
library.malloc(100_000)  # above it, and stays in use
before = resident()
library.free(block)
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
@pytest.mark.parametrize("how", ["return", "leave"])
def test_large_blocks_are_returned_at_once(how: str) -> None:
    done = subprocess.run([sys.executable, "-c", LARGE, how], capture_output=True, text=True, check=True)
    pages = int(done.stdout)  # 4,096 were freed
    assert pages > 4000 if how == "return" else pages < 100


HOLES = """
from pathlib import Path
from cifar.machine import return_memory
def resident():  # pages
    return int(Path("/proc/self/statm").read_text().split()[1])
start = resident()
blocks = [bytes(2000) for _ in range(50_000)]
full = resident()
blocks = blocks[::1000]  # the rest is freed, but between blocks in use
kept = resident()
return_memory()
print(full - start, kept - start, resident() - start)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_freed_memory_is_returned() -> None:
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    full, kept, returned = map(int, done.stdout.split())
    assert kept > full / 2 > 0
    assert returned < kept / 4


def test_denormals_are_flushed_in_every_thread_of_a_training(tmp_path: Path) -> None:
    (tmp_path / "looking.py").write_text(
        "import torch\n"
        "class Looking(torch.nn.Linear):\n"
        "    def forward(self, images):\n"
        "        assert torch.get_num_threads() == 2\n"
        "        assert (torch.full((1_000_000,), 1e-40) * 1).count_nonzero() == 0\n"
        "        return super().forward(images.flatten(1))\n"
        "def network():\n"
        "    return Looking(3072, 10)\n"
    )
    command = f"{sys.executable} -m cifar train -m looking:network -e 1 --data sample -d cpu -s run"
    path = f"{tmp_path}:{Path(__file__).parent.parent}"
    environment = os.environ | {"OMP_NUM_THREADS": "2", "PYTHONPATH": path}
    done = subprocess.run(command.split(), cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_compiled_is_kept_in_our_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CIFAR_HOME", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", "mine")
    machine.keep_compiled()
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).is_relative_to(tmp_path)
    assert os.environ["TRITON_CACHE_DIR"] == "mine"  # who has chosen a place keeps it
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
