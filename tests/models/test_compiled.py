"""Sources in C compile without a warning, and without a compiler torch does their work."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cifar.models import compiled, conv5x5, winograd
from cifar.models.compiled import use_compiled
from cifar.models.winograd import Conv3x3

SOURCES = {
    "conv5x5.c": [conv5x5.definitions(num_in, num_out) for num_in, num_out in ((3, 8), (8, 16), (16, 32))],
    "norm_gelu.c": [()],
    "winograd.c": [winograd.definitions(side) for side in winograd.POSITIVE_POINTS],
}


@pytest.fixture
def anew() -> Iterator[None]:
    compiled.library.cache_clear()
    yield
    compiled.library.cache_clear()


@pytest.mark.usefixtures("anew")
def test_without_a_compiler_torch_does_the_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    conv = Conv3x3(16, 16)
    assert use_compiled(conv) == "There is no C compiler (cc) here: training takes about twice as long."
    assert not conv.in_c


@pytest.mark.usefixtures("anew")
def test_with_a_compiler_that_fails_torch_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "FLAGS", ("-no-such-flag",))
    conv = Conv3x3(16, 16)
    assert use_compiled(conv) != ""
    assert not conv.in_c


@pytest.mark.parametrize("source, definitions", [(name, found) for name, all_ in SOURCES.items() for found in all_])
def test_the_sources_compile_without_a_warning(source: str, definitions: tuple[str, ...], tmp_path: Path) -> None:
    flags = (*compiled.FLAGS, *definitions, "-Wall", "-Wextra", "-Werror")
    subprocess.run(["cc", *flags, compiled.FOLDER / source, "-o", tmp_path / "compiled.so"], check=True)


def test_all_sources_are_tried_here() -> None:
    assert {path.name for path in compiled.FOLDER.glob("*.c")} == set(SOURCES)
