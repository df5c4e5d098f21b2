"""The frozen part computed once: the same logits as the whole network, only the end trained, a cache rightly named."""

import json
import re
import resource
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch
from hub_server import TINY
from safetensors.torch import load_file, save_file

from cifar.cli import app, run_app
from cifar.data.batches import to_pixels
from cifar.data.cifar10 import Dataset, cache_folder, load
from cifar.data.processes import hold
from cifar.errors import InputError, WorldError
from cifar.models import build_model
from cifar.models.frozen import FrozenPart, TrainableEnd, freeze
from cifar.models.pretrained import Pretrained
from cifar.recipes import Recipe, recipe_for, with_fields
from cifar.training import features
from cifar.training.estimate import estimate_seconds, estimate_sentence
from cifar.training.features import frozen_activations

TIMM = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised tiny ViT, standing in for pretrained weights."""
    torch.manual_seed(0)
    recipe = with_fields(recipe_for("previt"), model_name=TIMM, image_size=32)
    model = build_model(recipe, pretrained=False)
    assert isinstance(model, Pretrained)
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(model.network.state_dict(), path)
    return path


def frozen_recipe(weights: Path, train_blocks: int) -> Recipe:
    return with_fields(
        recipe_for("previt"), model_name=TIMM, image_size=32, weights=str(weights), train_blocks=train_blocks,
        crop_padding=0, flip=0.0, epochs=2, lr=1e-3,
    )  # fmt: skip


@pytest.mark.parametrize("train_blocks", [0, 1, 3, 11])
def test_both_parts_together_are_the_whole_network(train_blocks: int, weights: Path) -> None:
    model = build_model(frozen_recipe(weights, train_blocks)).eval()
    assert isinstance(model, Pretrained)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        parts = TrainableEnd(model, train_blocks)(FrozenPart(model, train_blocks)(images))
        torch.testing.assert_close(parts, model(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name, train_blocks", [("test_resnet", 0), ("test_vit", 0), ("test_vit2", 1), ("test_vit3", 1)]
)
def test_other_networks_of_timm_come_apart_too(name: str, train_blocks: int) -> None:
    model = build_model(recipe_for(f"timm:{name}")).eval()
    assert isinstance(model, Pretrained)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        parts = TrainableEnd(model, train_blocks)(FrozenPart(model, train_blocks)(images))
        torch.testing.assert_close(parts, model(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("train_blocks, trained", [(0, 1), (2, 4)])
def test_only_the_end_is_trained(train_blocks: int, trained: int, weights: Path) -> None:
    model = build_model(frozen_recipe(weights, train_blocks))
    freeze(model, train_blocks)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    ends = {".".join(name.split(".")[: 3 if ".blocks." in f".{name}" else 2]) for name in names}
    expected = {"network.head"} | (
        {"network.blocks.10", "network.blocks.11", "network.norm"} if train_blocks else set()
    )
    assert ends == expected
    assert len(ends) == trained


def test_freezing_what_cannot_be_frozen_is_refused(weights: Path) -> None:
    with pytest.raises(InputError, match="previt and timm:NAME"):
        freeze(build_model(recipe_for("cnn")), 0)
    with pytest.raises(InputError, match="12 blocks"):
        freeze(build_model(frozen_recipe(weights, 12)), 12)
    with pytest.raises(InputError, match="several heads"):
        freeze(build_model(with_fields(recipe_for("timm:levit_conv_128s"), image_size=224), pretrained=False), 0)
    with pytest.raises(InputError, match="not made of blocks"):
        freeze(build_model(recipe_for("timm:test_resnet")), 1)
    with pytest.raises(InputError, match="--freeze"):
        with_fields(frozen_recipe(weights, 0), flip=0.5)


@pytest.mark.parametrize("train_blocks", [0, 1])
def test_activations_are_those_of_each_image_and_kept(train_blocks: int, weights: Path, sample: Dataset) -> None:
    recipe, split = frozen_recipe(weights, train_blocks), load(sample, "train")
    few = torch.arange(70)
    seen: list[tuple[int, int]] = []
    first = frozen_activations(
        recipe, split.select(few), sample, device="cpu", progress=lambda *done: seen.append(done)
    )
    assert seen[-1] == (70, 70)
    (file,) = (cache_folder() / "activations").iterdir()
    model = build_model(recipe).eval()
    assert isinstance(model, Pretrained)
    with torch.no_grad():
        logits = TrainableEnd(model, train_blocks)(first.images)
        torch.testing.assert_close(logits, model(to_pixels(split.images[few])), rtol=0, atol=1e-5)
    seen.clear()
    for name in (f".{file.name}.lock", f".{file.name}.0123.part"):
        (file.parent / name).write_text("")  # of a killed process
    again = frozen_activations(
        recipe, split.select(few), sample, device="cpu", progress=lambda *done: seen.append(done)
    )
    assert not seen
    assert torch.equal(again.images, first.images)
    assert list((cache_folder() / "activations").iterdir()) == [file]
    content = file.read_bytes()
    for damaged in (b"", content[:-1], content[:200] + bytes([content[200] ^ 1]) + content[201:]):
        file.unlink()  # since what was returned is mapped
        file.write_bytes(damaged)
        seen.clear()
        anew = frozen_activations(
            recipe, split.select(few), sample, device="cpu", progress=lambda *done: seen.append(done)
        )
        assert seen
        assert torch.equal(anew.images, first.images)
        assert file.read_bytes() == content


def test_activations_that_the_disk_cannot_keep_are_refused_before_they_are_computed(
    weights: Path, sample: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens of 50,000 images can be 30 GB."""
    recipe, split = frozen_recipe(weights, 1), load(sample, "train")
    seen: list[int] = []
    monkeypatch.setattr("cifar.training.features.shutil.disk_usage", lambda _: type("Usage", (), {"free": 10**6}))
    with pytest.raises(WorldError, match=r"needs 0\.0 GB for the activations .* CIFAR_HOME .* --freeze"):
        frozen_activations(recipe, split, sample, device="cpu", progress=lambda done, _: seen.append(done))
    assert seen == []
    assert list((cache_folder() / "activations").iterdir()) == []


class Doubling(torch.nn.Module):
    """Stands for the frozen part of a network."""

    def __init__(self, *_: object) -> None:
        super().__init__()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        time.sleep(0.01)
        return 2 * pixels.flatten(1)


@pytest.fixture
def doubling(monkeypatch: pytest.MonkeyPatch) -> list[Doubling]:
    """The frozen parts that are made, each of which is computed once over all images."""
    made: list[Doubling] = []
    monkeypatch.setattr(features, "FrozenPart", lambda *_: made.append(Doubling()) or made[-1])
    monkeypatch.setattr(features, "build_model", lambda *_, **__: Pretrained.__new__(Pretrained))
    monkeypatch.setattr(features, "freeze", lambda *_: None)
    monkeypatch.setattr(features, "activations_key", lambda *_: "key")
    return made


def test_five_that_need_the_same_activations_compute_them_once(
    doubling: list[Doubling], weights: Path, sample: Dataset
) -> None:
    recipe, split = frozen_recipe(weights, 0), load(sample, "train")
    folder = cache_folder() / "activations"
    folder.mkdir(parents=True)
    for name in ("key.part", ".key.npy.0123.part", ".other.npy.0123.part", ".living.npy.0123.part"):
        (folder / name).write_text("of a killed process, but for the last")
    results = []
    start = threading.Barrier(5)

    def compute() -> None:
        start.wait()
        results.append(frozen_activations(recipe, split, sample, device="cpu", progress=lambda *_: None))

    with hold(folder / ".living.npy.lock", waiting=None), warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=compute) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(doubling) == 1
    assert len(remarks) == 4
    assert all("waiting for it" in str(remark.message) for remark in remarks)
    expected = 2 * to_pixels(split.images).flatten(1)
    assert all(torch.equal(result.images, expected) for result in results)
    assert sorted(path.name for path in folder.iterdir()) == [".living.npy.0123.part", "key.npy"]


def test_a_disk_that_fills_up_while_activations_are_written_is_one_sentence(
    doubling: list[Doubling], weights: Path, sample: Dataset
) -> None:
    recipe, split = frozen_recipe(weights, 0), load(sample, "train")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(WorldError, match=r"key\.npy: File too large: free some space or set CIFAR_HOME"):
            frozen_activations(recipe, split, sample, device="cpu", progress=lambda *_: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert doubling
    assert list((cache_folder() / "activations").iterdir()) == []


def test_other_weights_or_pixels_are_other_activations(weights: Path, sample: Dataset, tmp_path: Path) -> None:
    state = load_file(weights)
    state["blocks.3.attn.qkv.bias"][0] += 1
    save_file(state, tmp_path / "other.safetensors")
    split = load(sample, "train").select(torch.arange(3))
    recipes = (
        frozen_recipe(weights, 0),
        frozen_recipe(tmp_path / "other.safetensors", 0),
        with_fields(frozen_recipe(weights, 0), image_size=48),
        frozen_recipe(weights, 1),
    )
    for recipe in (*recipes, recipes[0]):
        frozen_activations(recipe, split, sample, device="cpu", progress=lambda _done, _total: None)
    assert len(list((cache_folder() / "activations").iterdir())) == len(recipes)


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize("flags", [["--freeze"], ["--train-blocks", "1"], ["--freeze", "--folds", "2"]])
def test_a_frozen_run_from_the_command_line(
    flags: list[str], tiny_weights: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, weights = tmp_path / "run", tmp_path / "tiny.safetensors"
    weights.write_bytes(tiny_weights)
    common = ["--set", f"model_name={TINY}", "--set", "image_size=32", "--data", "sample", "-d", "cpu", "-e", "1"]
    arguments = ["train", "-m", "previt", *flags, *common, "--weights", str(weights), "-s", str(folder)]
    assert run_app(app, arguments, program="cifar") == 0
    assert re.search(r"This will take about \d+ seconds\.", capsys.readouterr().err)  # of 1,000 images, not of 50,000
    run = folder / "fold-0" if "--folds" in flags else folder
    before, after = load_file(weights), load_file(run / "model.safetensors")
    assert torch.equal(after["network.blocks.2.mlp.fc1.weight"], before["blocks.2.mlp.fc1.weight"])
    assert not torch.equal(after["network.head.weight"], before["head.weight"])
    last = torch.equal(after["network.blocks.5.mlp.fc1.weight"], before["blocks.5.mlp.fc1.weight"])
    assert last == ("--freeze" in flags)
    # The whole network on images gives the accuracy that its end gave on activations.
    summary = json.loads((run / "summary.json").read_text())
    assert run_app(app, ["evaluate", str(run), "--split", "validation", "-d", "cpu", "--json"], program="cifar") == 0
    accuracy = json.loads((run / "evaluation-validation-none.json").read_text())["accuracy"]
    assert accuracy == pytest.approx(summary["validation_accuracy"])


def test_freeze_and_train_blocks_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "-m", "previt", "--freeze", "--train-blocks", "2", "--dry-run"]
    assert run_app(app, arguments, program="cifar") == 2
    assert "one of them" in capsys.readouterr().err


def test_estimates() -> None:
    recipe = with_fields(recipe_for("previt"), model_name=TIMM, image_size=32, epochs=10)
    whole, head = estimate_seconds(recipe, num_images=1000, device="cpu")
    assert whole > head > 0
    frozen = with_fields(recipe, train_blocks=0, crop_padding=0, flip=0.0)
    assert estimate_seconds(frozen, num_images=1000, device="cpu")[0] < whole
    large = with_fields(recipe, image_size=112, early_image_size=48, early_epochs=5)
    early, _ = estimate_seconds(large, num_images=1000, device="cpu")
    late, _ = estimate_seconds(with_fields(large, early_epochs=1), num_images=1000, device="cpu")
    assert whole < early < late


def test_an_estimate_waits_for_the_device_before_it_reads_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the launch of a GPU's backward pass is timed, and not the pass."""
    events: list[str] = []
    clock, backward = time.perf_counter, torch.autograd.backward
    monkeypatch.setattr("cifar.training.estimate.synchronise", lambda _: events.append("wait"))
    monkeypatch.setattr(time, "perf_counter", lambda: (events.append("clock"), clock())[1])
    monkeypatch.setattr(torch.autograd, "backward", lambda loss: (events.append("backward"), backward(loss))[1])
    recipe = with_fields(recipe_for("previt"), model_name=TIMM, image_size=32)
    estimate_seconds(recipe, num_images=8, device="cpu")
    assert events == 2 * ["wait", "clock", "wait", "clock", "backward", "wait", "clock"]


@pytest.mark.parametrize(
    "seconds, words, offers",
    [(59, "59 seconds", False), (1000, "17 minutes", False), (3 * 3600, "3 hours", False), (4e5, "5 days", True)],
)
def test_a_long_training_is_offered_the_cheaper_way(seconds: float, words: str, offers: bool) -> None:
    sentence = estimate_sentence(seconds, 700)
    assert words in sentence
    assert ("--freeze" in sentence and "12 minutes" in sentence) == offers
