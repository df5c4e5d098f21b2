"""Compiling, keeping and trusting libraries; what is said where that fails; threads and memory of native kernels."""

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cifar.errors import InputError, Remark
from cifar.files import cache_folder
from cifar.kernels import build, conv5x5, kept, winograd
from cifar.kernels.ops import batch_norm_gelu, conv3x3, conv3x3_pool, conv5x5_pool_relu
from cifar.models import build_model
from cifar.recipes import recipe_for

SOURCES = {
    "conv5x5.c": [conv5x5.definitions(num_in, num_out) for num_in, num_out in ((3, 8), (8, 16), (16, 32))],
    "norm_gelu.c": [()],
    "winograd.c": [winograd.definitions(side) for side in winograd.POSITIVE_POINTS],
}
HUGE = 1 << 22  # a square image of this side needs more than an address space has


@pytest.fixture
def anew() -> Iterator[None]:
    """As in a new process: nothing is loaded, nothing was said."""
    for cache in (build.library, build.remark):
        cache.cache_clear()
    yield
    for cache in (build.library, build.remark):
        cache.cache_clear()


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources that were compiled, in order."""
    sources: list[str] = []

    def compile_source(source: str, arguments: tuple[str, ...], path: Path) -> None:
        sources.append(source)
        compile_as_ever(source, arguments, path)

    compile_as_ever = build.compile_source
    monkeypatch.setattr(build, "compile_source", compile_source)
    return sources


def script(path: Path, *lines: str) -> str:
    """A program of these lines of a shell, to stand for a compiler."""
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(0o755)
    return str(path)


def check_all(*, native: bool) -> None:
    """Every operation gives what PyTorch's do: nearly, or where PyTorch does it, exactly."""
    torch.manual_seed(0)
    features, norm = torch.randn(4, 8, 12, 12).to(memory_format=torch.channels_last), nn.BatchNorm2d(8)
    weight, filters, bias = torch.randn(16, 8, 3, 3), torch.randn(16, 8, 5, 5), torch.randn(16)
    small, large = F.conv2d(features, weight, padding=1), F.conv2d(features, filters, bias, padding=2)
    pairs = [
        (conv3x3(features, weight), small),
        (conv3x3_pool(features, weight), F.max_pool2d(small, 2)),
        (conv5x5_pool_relu(features, filters, bias), F.max_pool2d(large, 2).relu()),
        (batch_norm_gelu(features, norm), F.gelu(norm(features))),
    ]
    for ours, right in pairs:
        assert torch.equal(ours, right) != native
        torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("anew")
def test_without_a_compiler_pytorch_is_used_and_a_remark_says_so_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.warns(Remark, match=r"^There is no C compiler \(cc\) here, so training .* set CC to yours\.$") as said:
        check_all(native=False)
    assert len(said) == 1
    assert not build.available()
    build.library.cache_clear()
    assert not build.available()


@pytest.mark.usefixtures("anew")
def test_with_a_compiler_that_fails_pytorch_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    complaint = "echo first; echo 'x.c:1: error: no such thing' >&2; echo 'error: again' >&2; exit 1"
    monkeypatch.setenv("CC", script(tmp_path / "broken", complaint))
    with pytest.warns(Remark, match=r"broken fails on .*\.c, so training .*: x\.c:1: error: no such thing$") as said:
        check_all(native=False)
    assert len(said) == len(SOURCES)  # one a source
    assert not any(cache_folder().glob("kernels/*"))


@pytest.mark.usefixtures("anew")
def test_one_source_that_fails_leaves_the_others_native(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fails = 'case "$*" in *winograd.c*) echo "error: too hard" >&2; exit 1;; esac; exec cc "$@"'
    monkeypatch.setenv("CC", script(tmp_path / "choosy", fails))
    features = torch.randn(2, 8, 8, 8).to(memory_format=torch.channels_last)
    norm, weight = nn.BatchNorm2d(8), torch.randn(8, 8, 3, 3)
    with pytest.warns(Remark, match=r"fails on winograd\.c"):
        assert torch.equal(conv3x3(features, weight), F.conv2d(features, weight, padding=1))
    assert not torch.equal(batch_norm_gelu(features, norm), F.gelu(norm(features)))


@pytest.mark.usefixtures("anew")
def test_a_library_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", script(tmp_path / "liar", 'while [ "$1" != -o ]; do shift; done; echo no library > "$2"'))
    with pytest.warns(Remark, match=r"^The compiled winograd\.c cannot be loaded, so training .*: (?!/)"):
        assert winograd.compile_for(4) is None


@pytest.mark.usefixtures("anew")
def test_a_compiler_without_openmp_gives_one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refuses = 'case "$*" in *-fopenmp*) echo "error: unsupported option \'-fopenmp\'" >&2; exit 1;; esac; exec cc "$@"'
    monkeypatch.setenv("CC", script(tmp_path / "single", refuses))
    with pytest.warns(
        Remark, match=r"single has no OpenMP, so native kernels run on one thread, which is slower: set CC"
    ) as said:
        check_all(native=True)
    assert len(said) == 1
    monkeypatch.setattr(build.platform, "system", lambda: "Darwin")
    assert "`brew install libomp`, then `export CC=" in build.openmp_hint()


@pytest.mark.usefixtures("anew")
def test_the_compiler_is_that_of_cc_split_as_by_a_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recorder = script(tmp_path / "my cc", f'printf "%s\\n" "$@" > "{tmp_path}/arguments"; exec cc "$@"')
    monkeypatch.setenv("CC", f"'{recorder}' -DFIRST '-DSECOND=a b'")
    assert build.available()
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments[:2] == ["-DFIRST", "-DSECOND=a b"]  # first, as "ccache gcc" needs it
    for given, expected in ((None, ["cc"]), ("", ["cc"]), ("  ", ["cc"]), ("'open", ["'open"])):
        monkeypatch.delenv("CC") if given is None else monkeypatch.setenv("CC", given)
        assert build.compiler_command() == expected


@pytest.mark.usefixtures("anew")
def test_a_library_is_kept_for_the_next_process(compilations: list[str]) -> None:
    assert build.available()
    assert compilations == ["norm_gelu.c"]
    (path,) = (cache_folder() / "kernels").iterdir()
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o022 == 0
    build.library.cache_clear()
    assert build.available()
    assert compilations == ["norm_gelu.c"]


@pytest.mark.usefixtures("anew")
def test_what_a_library_depends_on_is_in_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "sources"
    folder.mkdir()
    for name in ("winograd.c", build.HEADER):
        (folder / name).write_bytes((build.FOLDER / name).read_bytes())
    compiler = Path(script(tmp_path / "mycc", 'exec cc "$@"'))
    names = []

    def look(*arguments: str) -> None:
        path = kept.kept_name((folder / "winograd.c", folder / build.HEADER), (str(compiler), *arguments))
        assert path is not None
        names.append(path.name)

    look()
    look()
    assert names[0] == names.pop()
    look("-DOUT=4")
    look("-DOUT", "=4")
    (folder / "winograd.c").write_text("int changed;\n")
    look()
    (folder / build.HEADER).write_text("int changed;\n")
    look()
    script(compiler, 'exec gcc "$@"')
    look()
    os.utime(compiler, (1, 1))
    look()
    monkeypatch.setattr(kept, "cpu_identity", lambda: ("another",))
    look()
    assert len(set(names)) == len(names) == 8
    assert all(name.startswith("winograd-") for name in names)


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize("fault", ["others may write it", "a link", "the folder is open", "garbage"])
def test_a_library_that_cannot_be_trusted_or_loaded_is_compiled_anew(
    fault: str, compilations: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build.available()
    (path,) = (cache_folder() / "kernels").iterdir()
    if fault == "others may write it":
        path.chmod(0o666)
    elif fault == "a link":
        path.replace(tmp_path / "elsewhere.so")
        path.symlink_to(tmp_path / "elsewhere.so")
    elif fault == "the folder is open":
        path.parent.chmod(0o777)
    else:  # elsewhere, since what is loaded already is not looked at again
        monkeypatch.setenv("CIFAR_HOME", str(tmp_path / "another"))
        (cache_folder() / "kernels").mkdir(parents=True)
        (cache_folder() / "kernels" / path.name).write_text("garbage")
    build.library.cache_clear()
    assert build.available()
    assert compilations == ["norm_gelu.c"] * 2
    build.library.cache_clear()
    assert build.available()
    assert len(compilations) == (3 if fault == "the folder is open" else 2)  # nothing is kept there


def test_a_library_that_is_not_whole_is_never_loaded(tmp_path: Path) -> None:
    """Cut off at the end of a page it would be loaded, and end the process when it is called."""
    name = kept.kept_name((build.FOLDER / "norm_gelu.c",), ("cc",))
    assert name is not None
    (tmp_path / "whole").write_bytes(bytes(range(256)) * 64)
    path = kept.keep(tmp_path / "whole", name)
    whole = path.read_bytes()
    assert kept.find_kept(name) == [path]
    for damaged in (b"", whole[:4096], whole[:8192], whole[:-1], whole + b"x", b"\1" + whole[1:]):
        path.write_bytes(damaged)
        assert kept.find_kept(name) == []
    (tmp_path / "whole").write_bytes(b"by another process, at the same time")
    other = kept.keep(tmp_path / "whole", name)
    path.write_bytes(whole)
    assert kept.find_kept(name) == sorted([path, other])


KILLED = "kill -9 $$"
HANGS = 'sleep 9 & echo $! > "$0.pid"; wait'


def ends(pid: int) -> bool:
    """Whether a process ends within ten seconds; it may stay as one whose end nobody has asked for."""
    for _ in range(500):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize("does, words", [
    (KILLED, "broken fails on norm_gelu.c, so .*: it was ended by signal 9$"),
    (HANGS, "broken fails on norm_gelu.c, so .*: it takes longer than 0.3 seconds$"),
    ("exit 0", "compiled norm_gelu.c cannot be loaded, so .*: cannot open shared object"),
    ("printf 'x.c: error: b\\366se \\377\\n' >&2; exit 1", "so .*: x.c: error: b\ufffdse \ufffd$"),
    ('while [ "$1" != -o ]; do shift; done; exec cc -shared -x c /dev/null -o "$2"', "so .*: it is another library$"),
    ("echo '/tmp/x.s: fatal error: No space left on device' >&2; exit 1", "so .*: /tmp/x.s: fatal .* No space left"),
])  # fmt: skip
def test_whatever_a_compiler_does_pytorch_takes_over_and_says_why(
    does: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compilations: list[str]
) -> None:
    monkeypatch.setenv("CC", script(tmp_path / "broken", does))
    monkeypatch.setattr(build, "COMPILER_SECONDS", 0.3 if does == HANGS else 60)
    with pytest.warns(Remark, match=words) as said:
        assert not build.available()
    assert len(said) == 1
    assert not any(cache_folder().glob("kernels/*")) or "another" in words
    if does in (KILLED, HANGS):  # which says nothing of its OpenMP
        assert len(compilations) == 1
    if does == HANGS:
        assert ends(int((tmp_path / "broken.pid").read_text()))


@pytest.mark.usefixtures("anew")
def test_without_a_folder_to_compile_in_pytorch_takes_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.warns(Remark, match=r"norm_gelu\.c cannot be loaded, so .*absent"):
        assert not build.available()


def test_a_signal_to_our_group_does_not_reach_the_compiler() -> None:
    """Nor ours that of the compiler: as Ctrl-C goes to a terminal's group."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        assert build.run_compiler(["sh", "-c", "kill -TERM 0; sleep 9"]) == (-signal.SIGTERM, "")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == []


def test_a_compiler_that_is_waited_for_no_longer_is_ended(tmp_path: Path) -> None:
    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            build.run_compiler([script(tmp_path / "slow", HANGS)])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert ends(int((tmp_path / "slow.pid").read_text()))


@pytest.mark.usefixtures("anew")
def test_what_belongs_to_another_user_is_neither_loaded_nor_written(
    monkeypatch: pytest.MonkeyPatch, compilations: list[str]
) -> None:
    (cache_folder() / "kernels").mkdir(parents=True)
    own = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    for number in (1, 2):
        assert build.available()
        assert len(compilations) == number
        build.library.cache_clear()
    assert not any((cache_folder() / "kernels").iterdir())


@pytest.mark.usefixtures("anew")
def test_without_a_cache_a_library_is_compiled_for_the_process(compilations: list[str]) -> None:
    cache_folder().write_text("a file where the folder belongs")
    assert build.available()
    assert compilations == ["norm_gelu.c"]


def test_the_variable_chooses_and_using_puts_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(build.VARIABLE, raising=False)
    assert build.enabled()
    with build.using("pytorch"):
        assert not build.enabled()
        assert not build.available()
        with build.using("native"):
            check_all(native=True)
        check_all(native=False)
    assert build.VARIABLE not in os.environ
    monkeypatch.setenv(build.VARIABLE, "pytorch")
    check_all(native=False)
    with pytest.raises(ZeroDivisionError), build.using("native"):
        raise ZeroDivisionError
    assert not build.enabled()
    with pytest.raises(InputError, match="CIFAR_KERNELS is 'C': choose from native, pytorch"), build.using("C"):
        pass
    monkeypatch.setenv(build.VARIABLE, "fast")
    with pytest.raises(InputError, match="CIFAR_KERNELS is 'fast'"):
        check_all(native=True)


@pytest.mark.parametrize("source, definitions", [(name, one) for name, all_ in SOURCES.items() for one in all_])
def test_sources_compile_without_a_warning(source: str, definitions: tuple[str, ...], tmp_path: Path) -> None:
    flags = (*build.FLAGS, build.OPENMP, *definitions, "-Wall", "-Wextra", "-Werror")
    subprocess.run(["cc", *flags, build.FOLDER / source, "-o", tmp_path / "compiled.so"], check=True)


def test_all_sources_are_compiled_here() -> None:
    assert {path.name for path in build.FOLDER.glob("*.c")} == set(SOURCES)


@pytest.mark.parametrize(
    "function, num_tensors",
    [("winograd_forward", 4), ("winograd_backward", 6), ("conv5x5_forward", 5), ("conv5x5_backward", 7)],
)
def test_buffers_that_memory_does_not_hold_are_an_error(function: str, num_tensors: int) -> None:
    if function.startswith("winograd"):
        library, channels = winograd.compile_for(4), (8, 8)
    else:
        library, channels = build.library("conv5x5.c", *conv5x5.definitions(8, 8)), ()
    assert library is not None
    with pytest.raises(MemoryError, match=f"no memory for the buffers of {function}: choose a smaller batch size"):
        build.call(library, function, *[None] * num_tensors, sizes=(1, HUGE, HUGE, *channels), threads=1)


THREADS = """
import sys, threading
import torch
from torch import nn
from cifar.kernels import ops
from cifar.kernels.build import using

torch.manual_seed(0)
features = torch.randn(33, 8, 8, 8).to(memory_format=torch.channels_last)
small, large, bias = torch.randn(16, 8, 3, 3), torch.randn(8, 8, 5, 5), torch.randn(8)
calls = {
    "Winograd": lambda x: ops.conv3x3(x, small),
    "Conv5x5PoolRelu": lambda x: ops.conv5x5_pool_relu(x, large, bias),
    "NormGelu": lambda x: ops.batch_norm_gelu(x, nn.BatchNorm2d(8)),
}

def results(call, kind):
    for tensor in (small, large, bias):
        tensor.grad = None
        tensor.requires_grad_()
    x = features.clone().requires_grad_()
    outputs = call(x)
    assert kind in str(outputs.grad_fn)
    outputs.square().sum().backward()
    gradients = [tensor.grad for tensor in (small, large, bias) if tensor.grad is not None]
    return [outputs.detach(), x.grad, *gradients]

def compare():
    for kind, call in calls.items():
        native = results(call, kind)
        with using("pytorch"):
            right = results(call, "")
        for ours, exact in zip(native, right, strict=True):
            assert (ours - exact).norm() < 1e-3 * exact.norm(), kind
    done.append(None)

done = []
torch.set_num_threads(int(sys.argv[1]))
compare()
other = threading.Thread(target=compare)  # where OpenMP has its own idea of how many threads there are
other.start()
other.join()
assert len(done) == 2
"""


@pytest.mark.parametrize("openmp, pytorch", [(4, 1), (1, 4)])
def test_threads_are_as_many_as_pytorch_has_whatever_openmp_says(openmp: int, pytorch: int) -> None:
    """Buffers are a thread's own: a thread too many would write behind them, or its part of a sum would be lost."""
    variables = {**os.environ, "OMP_NUM_THREADS": str(openmp)}
    subprocess.run([sys.executable, "-W", "error", "-c", THREADS, str(pytorch)], env=variables, check=True)


@pytest.mark.parametrize("openmp, asked", [(1, 1), (1, 3), (4, 1), (4, 3)])
def test_no_more_threads_are_used_than_asked_for_whatever_openmp_says(openmp: int, asked: int) -> None:
    """Which differ where the compiler brings an OpenMP of its own. Each thread sums to a place of its own."""
    library = build.library("conv5x5.c", *conv5x5.definitions(8, 8))
    assert library is not None
    images = torch.ones(24, 4, 4, 8)
    grad_output, argmax = torch.ones(24, 2, 2, 8), torch.zeros(24, 2, 2, 8, dtype=torch.uint8)
    grad_filters, grad_bias = torch.zeros(8, 8, 5, 40), torch.zeros(8, 8)
    tensors = (images, grad_output, argmax, torch.zeros(8, 5, 5, 8), None, grad_filters, grad_bias)
    before = torch.get_num_threads()
    torch.set_num_threads(openmp)
    try:
        build.call(library, "conv5x5_backward", *tensors, sizes=(24, 4, 4), threads=asked)
    finally:
        torch.set_num_threads(before)
    assert grad_bias.sum(0).eq(24 * 4).all()
    assert [bool(total.any()) for total in grad_bias] == [number < asked for number in range(8)]
    assert [bool(total.any()) for total in grad_filters] == [number < asked for number in range(8)]


def test_a_remark_is_said_once(recwarn: pytest.WarningsRecorder) -> None:
    build.remark.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        for sentence in ("One.", "Two.", "One."):
            build.remark(sentence)
    assert [str(warning.message) for warning in recwarn] == ["One.", "Two."]


def test_networks_that_native_kernels_speed_up() -> None:
    """By name; told by rounding, which native kernels change."""
    images = torch.rand(2, 3, 32, 32).to(memory_format=torch.channels_last)
    for name in ("cnn", "resnet20", "speednet-narrow", "vit-tiny"):
        model = (
            build_model(dataclasses.replace(recipe_for("cnn"), model=name)).to(memory_format=torch.channels_last).eval()
        )
        native = model(images)
        with build.using("pytorch"):
            assert build.speed_up(name) is False
            same = torch.equal(model(images), native)
        assert build.speed_up(name) is not same, name
