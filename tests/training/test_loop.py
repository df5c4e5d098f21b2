import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from cifar.data import cifar10
from cifar.data.augment import crop_and_flip
from cifar.data.batches import draw_order, to_pixels
from cifar.data.cifar10 import Dataset, Split
from cifar.errors import WorldError
from cifar.machine import choose_compile
from cifar.models import build_model, prepare_model
from cifar.models.pretrained import Pretrained
from cifar.models.speednet import SpeedNet
from cifar.recipes import Recipe, any_network, recipe_for, with_settings
from cifar.runs import read_json, read_metrics
from cifar.training import loop
from cifar.training.loop import Tick, augment, mixed_loss, train, warmed_average
from cifar.training.run import run_training, training_images
from cifar.training.state import State

PLAIN = Recipe(model="cnn", epochs=2, batch_size=64, lr=0.05, nesterov=True)
EVERYTHING = dataclasses.replace(
    PLAIN, epochs=3, schedule="cosine", warmup_epochs=0.5, crop_padding=4, flip=0.5, label_smoothing=0.1, mixup=0.2,
    cutmix=1.0, ema_decay=0.9, clip_norm=1.0, weight_decay=1e-3, optimiser="adamw", lr=1e-3,
)  # fmt: skip


def run(recipe: Recipe, few: tuple[Split, Split], folder: Path, *, stop_after: int = 0, resume: bool = False) -> State:
    folder.mkdir(exist_ok=True)
    steps = iter(range(1, 10**6))
    return train(recipe, *few, folder=folder, should_stop=lambda: next(steps) == stop_after, resume=resume)


def same_weights(first: Path, second: Path) -> bool:
    left, right = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_plain_training_equals_a_textbook_loop(few: tuple[Split, Split], tmp_path: Path) -> None:
    recipe = dataclasses.replace(PLAIN, validation_fraction=0)
    ours = run(recipe, (few[0], few[1].select(torch.arange(0))), tmp_path)
    torch.manual_seed(recipe.seed)
    model = build_model(recipe)
    prepare_model(model, few[0].images)
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    generator = torch.Generator().manual_seed(recipe.seed)
    for _ in range(recipe.epochs):
        order = draw_order(200, generator=generator)
        for start in range(0, 200, 64):
            indices = order[start : start + 64]
            optimiser.zero_grad()
            F.cross_entropy(model(few[0].images[indices].float() / 255), few[0].labels[indices]).backward()
            optimiser.step()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(ours.model.state_dict()[name].contiguous(), tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", ["cnn", "resnet20"])
@pytest.mark.parametrize("stop_after", [1, 4, 6])
def test_a_resumed_run_equals_an_unbroken_one(
    model: str, stop_after: int, few: tuple[Split, Split], tmp_path: Path
) -> None:
    recipe = dataclasses.replace(EVERYTHING, model=model)
    whole = run(recipe, few, tmp_path / "whole")
    broken = run(recipe, few, tmp_path / "broken", stop_after=stop_after)
    assert not broken.finished
    resumed = run(recipe, few, tmp_path / "broken", resume=True)
    assert whole.finished
    assert resumed.finished
    assert same_weights(tmp_path / "whole", tmp_path / "broken")
    timed = ("seconds", "images_per_second")
    for first, second in zip(whole.rows, resumed.rows, strict=True):
        assert {k: v for k, v in first.items() if k not in timed} == {k: v for k, v in second.items() if k not in timed}


@pytest.mark.skipif(not choose_compile("yes", device="cpu")[0], reason="there is no C++ compiler")
@pytest.mark.filterwarnings("default")  # of the compiler's own modules
def test_compiled_training_is_the_same_but_for_rounding(few: tuple[Split, Split], tmp_path: Path) -> None:
    recipe = dataclasses.replace(PLAIN, batch_size=100)
    eager = run(recipe, few, tmp_path / "eager")
    compiled = run(dataclasses.replace(recipe, compile="yes"), few, tmp_path / "compiled")
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    for name, tensor in eager.model.state_dict().items():
        torch.testing.assert_close(compiled.model.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
    assert load_file(tmp_path / "compiled" / "model.safetensors").keys() == eager.model.state_dict().keys()


def test_early_epochs_have_smaller_images(
    few: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of the average that is validated; best is what the full size finds best; a resume changes nothing."""
    recipe = with_settings(
        recipe_for("timm:vit_tiny_patch16_224"),
        ["image_size=32", "early_image_size=16", "early_epochs=2", "epochs=3", "batch_size=100", "ema_decay=0.5"],
    )
    sizes: list[int] = []
    enlarge = Pretrained.enlarge

    def spy(self: Pretrained, images: torch.Tensor) -> torch.Tensor:
        enlarged = enlarge(self, images)
        sizes.append(enlarged.shape[-1])
        return enlarged

    monkeypatch.setattr(Pretrained, "enlarge", spy)
    whole = run(recipe, few, tmp_path / "whole")
    trial, *fed = sizes  # two images when a network is built
    assert trial == 32
    assert fed == [16, 16, 16] * 2 + [32, 32, 32]  # two steps and a validation an epoch
    assert whole.best_epoch == 3
    run(recipe, few, tmp_path / "broken", stop_after=5)
    run(recipe, few, tmp_path / "broken", resume=True)
    assert same_weights(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize(
    "settings, bf16, used",
    [
        (["winograd=true"], False, True),
        (["winograd=true"], True, True),
        (["winograd=false"], False, False),
        (["winograd=true", "precision=bf16"], False, True),  # which is then trained in fp32
        (["winograd=true", "precision=bf16"], True, False),
    ],
)
def test_nothing_is_compiled_that_a_training_cannot_use(
    settings: list[str], bf16: bool, used: bool, few: tuple[Split, Split], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    asked: list[torch.nn.Module] = []
    monkeypatch.setattr("cifar.machine.has_bf16", lambda _: bf16)
    monkeypatch.setattr(loop, "use_compiled", lambda model: asked.append(model) or "")
    run(with_settings(PLAIN, ["epochs=1", *settings]), few, tmp_path / "run")
    assert bool(asked) == used


def test_windows_come_between_early_and_whole_epochs(
    few: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anywhere inside the image, never in its padding; validation sees whole images; a resume changes nothing."""
    recipe = with_settings(
        recipe_for("speednet-narrow"),
        [
            "epochs=5", "early_epochs=1", "early_image_size=16", "window=20", "window_epochs=2", "batch_size=100",
            "validation_fraction=0.1", "precision=fp32",
        ],
    )  # fmt: skip
    seen: list[tuple[int, int, torch.Tensor]] = []
    fed: list[int] = []

    def spy(images: torch.Tensor, offsets: torch.Tensor, flips: torch.Tensor, **options: Any) -> torch.Tensor:
        seen.append((options["size"], options["padding"], offsets))
        return crop_and_flip(images, offsets, flips, **options)

    def look(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if isinstance(module, SpeedNet):
            fed.append(inputs[0].shape[-1])

    monkeypatch.setattr(loop, "crop_and_flip", spy)
    handle = torch.nn.modules.module.register_module_forward_pre_hook(look)
    run(recipe, few, tmp_path / "whole")
    handle.remove()
    assert [(size, padding) for size, padding, _ in seen] == [(0, 2)] * 2 + [(20, 0)] * 4 + [(0, 2)] * 4
    windows = torch.cat([offsets for size, _, offsets in seen if size])
    assert (windows.min().item(), windows.max().item()) == (0, 12)
    trial, *fed = fed  # one image when the network is built
    assert trial == 20
    assert fed == [32, 32, 32] + [20, 20, 32] * 2 + [32, 32, 32] * 2  # two steps and a validation an epoch
    run(recipe, few, tmp_path / "broken", stop_after=5)
    run(recipe, few, tmp_path / "broken", resume=True)
    assert same_weights(tmp_path / "whole", tmp_path / "broken")


def test_alternate_flips_show_every_image_both_ways(
    few: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def spy(images: torch.Tensor, offsets: torch.Tensor, flips: torch.Tensor, **options: Any) -> torch.Tensor:
        seen.append(flips)
        return crop_and_flip(images, offsets, flips, **options)

    monkeypatch.setattr(loop, "crop_and_flip", spy)
    recipe = dataclasses.replace(PLAIN, epochs=4, batch_size=200, flip=0.5, flip_mode="alternate")
    whole = run(recipe, few, tmp_path / "whole")
    assert [int(flips.sum()) for flips in seen] == [int(seen[0].sum()), 200 - int(seen[0].sum())] * 2
    assert 60 < seen[0].sum() < 140
    run(recipe, few, tmp_path / "broken", stop_after=2)
    assert whole.flips is not None
    run(recipe, few, tmp_path / "broken", resume=True)
    assert same_weights(tmp_path / "whole", tmp_path / "broken")


def test_plateau_and_patience_survive_a_resume(few: tuple[Split, Split], tmp_path: Path) -> None:
    recipe = dataclasses.replace(PLAIN, epochs=12, lr=1e-7, schedule="plateau", plateau_patience=1, patience=5)
    whole = run(recipe, few, tmp_path / "whole")
    run(recipe, few, tmp_path / "broken", stop_after=14)
    resumed = run(recipe, few, tmp_path / "broken", resume=True)
    rates = [row["learning_rate"] for row in whole.rows]
    assert rates == [row["learning_rate"] for row in resumed.rows]
    assert min(rates) < recipe.lr / 9
    assert whole.epoch == resumed.epoch == whole.best_epoch + 5 < 12


@pytest.mark.parametrize("patience", [0, 1])
def test_patience_both_ways(patience: int, few: tuple[Split, Split], tmp_path: Path) -> None:
    state = run(dataclasses.replace(PLAIN, epochs=4, lr=1e-9, patience=patience), few, tmp_path)
    assert state.epoch == (2 if patience else 4)


def test_seeds_decide_the_weights(few: tuple[Split, Split], tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(dataclasses.replace(PLAIN, epochs=1, seed=seed), few, tmp_path / name)
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert not same_weights(tmp_path / "a", tmp_path / "c")


def test_best_weights_are_those_of_the_best_epoch(few: tuple[Split, Split], tmp_path: Path) -> None:
    state = run(dataclasses.replace(PLAIN, epochs=4), few, tmp_path)
    accuracies = [row["validation_accuracy"] for row in read_metrics(tmp_path)]
    assert state.best_epoch == accuracies.index(max(accuracies)) + 1
    model = build_model(PLAIN)
    model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    with torch.no_grad():
        predicted = model.eval()(few[1].images.float() / 255).argmax(1)
    assert (predicted == few[1].labels).double().mean().item() == max(accuracies)


def test_without_validation_the_last_weights_are_kept(few: tuple[Split, Split], tmp_path: Path) -> None:
    recipe = dataclasses.replace(PLAIN, validation_fraction=0)
    state = run(recipe, (few[0], few[1].select(torch.arange(0))), tmp_path)
    assert state.best_epoch == state.epoch == 2
    assert all(math.isnan(row["validation_accuracy"]) for row in read_metrics(tmp_path))


def test_divergence_is_one_sentence(few: tuple[Split, Split], tmp_path: Path) -> None:
    with pytest.raises(WorldError, match="lower learning rate"):
        run(dataclasses.replace(PLAIN, lr=1e18, model="resnet20"), few, tmp_path)


def test_ticks_tell_where_it_stands(few: tuple[Split, Split], tmp_path: Path) -> None:
    ticks: list[Tick] = []
    train(PLAIN, *few, folder=tmp_path, tick=ticks.append)
    last = ticks[-1]
    assert (last.epoch, last.epochs, last.step, last.steps) == (2, 2, 4, 4)
    assert last.seconds_left == 0
    assert last.loss == pytest.approx(read_metrics(tmp_path)[-1]["train_loss"])


def test_mean_loss_weighs_a_small_last_batch_by_its_size(few: tuple[Split, Split], tmp_path: Path) -> None:
    recipe = dataclasses.replace(PLAIN, epochs=1, lr=1e-12, batch_size=192)
    state = run(recipe, few, tmp_path)
    torch.manual_seed(recipe.seed)
    model = build_model(recipe)
    prepare_model(model, few[0].images)
    with torch.no_grad():
        loss = F.cross_entropy(model(to_pixels(few[0].images)), few[0].labels).item()
    assert state.rows[0]["train_loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.999])
def test_moving_average_equals_the_slow_formula(decay: float) -> None:
    averaged, values = torch.tensor([1.0]), [torch.tensor([float(value)]) for value in (3, -2, 8, 5)]
    slow = 1.0
    for n, value in enumerate(values):
        warmed_average(decay)([averaged], [value], n)
        share = min(decay, (1 + n) / (10 + n))
        slow = share * slow + (1 - share) * value.item()
    assert averaged.item() == pytest.approx(slow)
    if decay == 0:
        assert averaged.item() == 5.0


def test_moving_average_is_what_gets_saved(few: tuple[Split, Split], tmp_path: Path) -> None:
    state = run(dataclasses.replace(PLAIN, ema_decay=0.99, epochs=1), few, tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert state.average is not None
    assert all(torch.equal(saved[name], tensor) for name, tensor in state.average.module.state_dict().items())
    assert not all(torch.equal(saved[name], tensor) for name, tensor in state.model.state_dict().items())


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_mixed_loss_equals_cross_entropy_with_soft_labels(smoothing: float, share: float) -> None:
    logits = torch.randn(7, 10, generator=torch.Generator().manual_seed(0))
    labels, others = torch.arange(7), torch.arange(7).flip(0)
    soft = share * F.one_hot(labels, 10) + (1 - share) * F.one_hot(others, 10)
    soft = (1 - smoothing) * soft + smoothing / 10
    slow = -(soft * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(mixed_loss(logits, labels, others, share=share, label_smoothing=smoothing), slow)


@pytest.mark.parametrize("fields", [{}, {"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 1.0}])
def test_mixing_both_ways(fields: dict[str, float], few: tuple[Split, Split]) -> None:
    recipe, generator = dataclasses.replace(PLAIN, **fields), torch.Generator().manual_seed(0)  # type: ignore[arg-type]
    pixels, others, share = augment(few[0].images, few[0].labels, recipe=recipe, generator=generator)
    assert (share == 1.0) == (not fields)
    assert torch.equal(others, few[0].labels) == (not fields)
    assert torch.equal(pixels, few[0].images / 255) == (not fields)


def test_training_never_reads_the_test_split(sample: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = cifar10.load

    def only_train(dataset: Dataset, part: str) -> Split:
        assert part == "train", "training asked for the test split"
        return real(dataset, part)

    monkeypatch.setattr("cifar.training.run.load", only_train)
    recipe = dataclasses.replace(PLAIN, epochs=1, num_folds=5, fold=3)
    images = training_images(recipe, sample, device="cpu")
    assert run_training(recipe, sample, images, folder=tmp_path, device="cpu")
    summary = read_json(tmp_path / "summary.json")
    assert summary["test_readings"] == []
    assert (summary["num_train"], summary["num_validation"]) == (800, 200)


def test_the_summary_of_a_run(sample: Dataset, tmp_path: Path) -> None:
    images = training_images(PLAIN, sample, device="cpu")
    assert run_training(
        dataclasses.replace(PLAIN, seed=3), sample, images, folder=tmp_path, device="cpu", command="cifar train"
    )
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["data"].startswith("SAMPLE")
    assert summary["data_sha256"] == sample.sha256
    assert summary["recipe"] == dataclasses.asdict(dataclasses.replace(PLAIN, seed=3))
    assert (summary["seed"], summary["epochs"], summary["finished"]) == (3, 2, True)
    assert summary["parameters"] == sum(p.numel() for p in build_model(recipe_for("cnn")).parameters())
    assert 0 <= summary["validation_accuracy"] <= 1
    assert summary["machine"]["cores"] >= 1
    assert summary["versions"]["torch"] == torch.__version__.partition("+")[0] or summary["versions"]["torch"]
    assert summary["seconds"] > 0
    assert summary["sittings"] == 1


def test_the_summary_counts_its_sittings(sample: Dataset, tmp_path: Path) -> None:
    images = training_images(PLAIN, sample, device="cpu")
    stops = iter([True, True, False])
    for resume in (False, True, True):
        stop = next(stops)
        finished = run_training(
            PLAIN, sample, images, folder=tmp_path, device="cpu", should_stop=lambda stop=stop: stop, resume=resume
        )
        assert finished != stop
    assert read_json(tmp_path / "summary.json")["sittings"] == 3


def test_a_damaged_checkpoint_is_one_sentence(few: tuple[Split, Split], tmp_path: Path) -> None:
    run(PLAIN, few, tmp_path, stop_after=2)
    path = tmp_path / "last.ckpt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WorldError, match=r"last\.ckpt"):
        run(PLAIN, few, tmp_path, resume=True)
    torch.save({"epoch": 1}, path)
    with pytest.raises(WorldError, match="another recipe or version"):
        run(PLAIN, few, tmp_path, resume=True)
    path.unlink()
    with pytest.raises(WorldError, match="overwrite"):
        run(PLAIN, few, tmp_path, resume=True)


def test_the_rate_told_is_the_recipes_and_not_that_of_the_lowest_layer(
    few: tuple[Split, Split], tmp_path: Path
) -> None:
    recipe = dataclasses.replace(
        any_network(),
        model="timm:test_vit.r160_in1k",
        epochs=1,
        layer_decay=0.5,
        schedule="constant",
        warmup_epochs=0.0,
    )
    state = run(recipe, few, tmp_path)
    assert state.rows[0]["learning_rate"] == recipe.lr
    assert min(group["lr"] for group in state.optimiser.param_groups) < recipe.lr
