"""What several tests share: the sample, opened once; a cache of its own, that no test touches the person's; a hub."""

import io
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import TINY, Hub
from PIL import Image
from safetensors.torch import save

from cifar.data.cifar10 import Dataset, Split, load, open_dataset
from cifar.models.pretrained import create
from cifar.pipeline import run
from cifar.reporting import pictures

# Small batches gain nothing from a second thread, and lose a hundredfold where other work holds the other core.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of the programs that tests start


LOOK_INTO_THE_CACHE = {"audit", "data", "kernels", "robustness"}  # folders of tests that expect it empty


@pytest.fixture(scope="session")
def sample() -> Dataset:
    return open_dataset("sample")


@pytest.fixture(scope="session")
def few(sample: Dataset) -> tuple[Split, Split]:
    """200 training and 60 validation images of the sample."""
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    train = load(sample, "train")
    return train.select(order[:200]), train.select(order[200:260])


@pytest.fixture(scope="session")
def compiled_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Native kernels that tests have compiled, for later tests of all workers: each takes a second."""
    folder = tmp_path_factory.getbasetemp().parent / "kernels"
    folder.mkdir(exist_ok=True)
    return folder


def copy_kernels(source: Path, target: Path) -> None:
    """Copy compiled kernels that the target lacks, each whole."""
    for path in source.glob("*.so") if source.is_dir() else ():
        if not (target / path.name).exists():
            part = shutil.copy(path, target / f".{path.name}.{os.getpid()}")
            Path(part).replace(target / path.name)


@pytest.fixture(autouse=True)
def own_cache(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    compiled_kernels: Path,
) -> Iterator[None]:
    """Tests marked `full` read the real cache; every other test has its own, empty but for native kernels."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    if request.node.get_closest_marker("full") is not None:
        yield
        return
    home = tmp_path_factory.mktemp("cache") / "home"
    monkeypatch.setenv("CIFAR_HOME", str(home))
    if request.node.path.parent.name in LOOK_INTO_THE_CACHE:
        yield
        return
    if any(compiled_kernels.iterdir()):
        home.mkdir()
        (home / "kernels").mkdir(mode=0o700)
        copy_kernels(compiled_kernels, home / "kernels")
    yield
    copy_kernels(home / "kernels", compiled_kernels)


@pytest.fixture(scope="session")
def tiny_weights() -> bytes:
    """A tiny transformer in a file of 25 MB, since the hub's client keeps what it has in pieces of 10 MiB."""
    return save(create(TINY).state_dict(), {"padding": "x" * 24_000_000})


@pytest.fixture
def hub(tiny_weights: bytes) -> Iterator[Hub]:
    """A hub that holds the tiny transformer, running."""
    with Hub(tiny_weights) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def drawn() -> None:
    """Of a test that looks at the pictures of its runs, where the other tests of its file have `blank_pictures`."""


@pytest.fixture
def blank_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs get files that stand for their pictures: to draw them takes longer than a short training."""
    if "drawn" in request.fixturenames:
        return
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "png")
    blank = data.getvalue()
    names = ("confusion.png", "reliability.png", "mistakes.png")
    batches = ("train_batch.png", "val_batch.png")
    monkeypatch.setattr(pictures, "training_pictures", lambda *_, **__: {"curves.png": blank})
    monkeypatch.setattr(pictures, "evaluation_pictures", lambda *_, **__: dict.fromkeys(names, blank))
    monkeypatch.setattr(run, "batch_pictures", lambda *_, **__: dict.fromkeys(batches, blank))
