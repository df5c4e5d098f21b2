import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch.utils.hooks import RemovableHandle

from cifar.data.batches import draw_order, to_pixels
from cifar.data.split import Split
from cifar.errors import WorldError
from cifar.machine import choose_compile
from cifar.models import build_model, prepare_model
from cifar.models.pretrained import Pretrained
from cifar.models.resnet import ResNet
from cifar.models.speednet import SpeedNet
from cifar.recipes import Optimiser, Recipe, any_network, recipe_for, with_fields, with_settings
from cifar.runs import read_metrics
from cifar.training import loop, plan
from cifar.training.augment import crop_and_flip
from cifar.training.display import Display, Facts, Tick
from cifar.training.ema import MovingAverage, averaging_weight
from cifar.training.loop import train
from cifar.training.state import State

PLAIN = Recipe(model="cnn", epochs=2, batch_size=64, optimiser=Optimiser(lr=0.05, nesterov=True))
EVERYTHING = with_fields(
    PLAIN, epochs=3, schedule="cosine", warmup_epochs=0.5, crop_padding=4, flip=0.5, label_smoothing=0.1, mixup=0.2,
    cutmix=1.0, ema_decay=0.9, clip_norm=1.0, weight_decay=1e-3, optimiser="adamw", lr=1e-3,
)  # fmt: skip


class Watching(Display):
    """Keeps what it is told, and stops after a step."""

    def __init__(self, stop_after: int = 0) -> None:
        self.stop_after = stop_after
        self.steps = 0
        self.ticks: list[Tick] = []
        self.best: list[bool] = []
        self.best_at_start = 0.0

    def should_stop(self) -> bool:
        self.steps += 1
        return self.steps == self.stop_after

    def start_training(self, epochs: int, *, best_accuracy: float, facts: Facts) -> None:  # noqa: ARG002
        self.best_at_start = best_accuracy

    def tick(self, tick: Tick) -> None:
        self.ticks.append(tick)

    def end_epoch(self, row: Mapping[str, float], *, is_best: bool) -> None:  # noqa: ARG002
        self.best.append(is_best)


def run(recipe: Recipe, few: tuple[Split, Split], folder: Path, *, stop_after: int = 0, resume: bool = False) -> State:
    folder.mkdir(exist_ok=True)
    return train(recipe, *few, folder=folder, display=Watching(stop_after), resume=resume)


def same_weights(first: Path, second: Path) -> bool:
    left, right = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_plain_training_equals_a_textbook_loop(few: tuple[Split, Split], tmp_path: Path) -> None:
    recipe = with_fields(PLAIN, validation_fraction=0)
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


@pytest.mark.parametrize("stop_after, model", [(1, "cnn"), (4, "cnn"), (6, "cnn"), (6, "resnet20")])
def test_a_resumed_run_equals_an_unbroken_one(
    stop_after: int, model: str, few: tuple[Split, Split], tmp_path: Path
) -> None:
    recipe = with_fields(EVERYTHING, model=model)
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


@pytest.mark.skipif(not choose_compile(True, device="cpu")[0], reason="there is no C++ compiler")
@pytest.mark.filterwarnings("default")  # of the compiler's own modules
def test_compiled_training_is_the_same_but_for_rounding(few: tuple[Split, Split], tmp_path: Path) -> None:
    recipe = with_fields(PLAIN, batch_size=100)
    eager = run(recipe, few, tmp_path / "eager")
    (tmp_path / "compiled").mkdir()
    compiled = train(recipe, *few, folder=tmp_path / "compiled", compile=True)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    for name, tensor in eager.model.state_dict().items():
        torch.testing.assert_close(compiled.model.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
    assert load_file(tmp_path / "compiled" / "model.safetensors").keys() == eager.model.state_dict().keys()


def sizes_seen(kind: type[torch.nn.Module]) -> tuple[list[int], RemovableHandle]:
    """The sides of the images that networks of a kind get, from now on."""
    sizes: list[int] = []

    def look(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if isinstance(module, kind):
            sizes.append(inputs[0].shape[-1])

    return sizes, torch.nn.modules.module.register_module_forward_pre_hook(look)


@pytest.mark.parametrize(
    "name, kind, early, settings",
    [
        ("timm:test_vit", Pretrained, 16, ["image_size=32", "ema_decay=0.5"]),
        ("speednet-narrow", SpeedNet, 16, ["precision=fp32", "validation_fraction=0.1"]),
        ("resnet20", ResNet, 24, []),
    ],
)
def test_early_epochs_have_smaller_images(
    name: str, kind: type[torch.nn.Module], early: int, settings: list[str], few: tuple[Split, Split], tmp_path: Path
) -> None:
    """Also those that are validated; best is what the full size finds best; a resume changes nothing."""
    common = ["epochs=3", "batch_size=100", f"early_image_size={early}", "early_epochs=2"]
    recipe = with_settings(recipe_for(name), [*common, *settings])
    sizes, handle = sizes_seen(kind)
    whole = run(recipe, few, tmp_path / "whole")
    handle.remove()
    trained_sizes = sizes[-9:]  # the trials before training see an image or two
    assert trained_sizes == [early] * 6 + [32] * 3  # two steps and a validation per epoch
    assert whole.best_epoch == 3
    run(recipe, few, tmp_path / "broken", stop_after=5)
    run(recipe, few, tmp_path / "broken", resume=True)
    assert same_weights(tmp_path / "whole", tmp_path / "broken")


def test_early_images_are_resized_as_augmented(
    few: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def no_step(*arguments: Any, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        pixels, labels, *_rest = arguments[3]
        seen.append(pixels)
        return torch.zeros(()), torch.zeros(len(labels), 10)

    monkeypatch.setattr(loop, "training_step", no_step)
    settings = ["epochs=2", "batch_size=200", "early_image_size=24", "early_epochs=1", "validation_fraction=0.1"]
    recipe = with_settings(recipe_for("resnet20"), [*settings, "crop_padding=0", "flip=0"])
    order: list[torch.Tensor] = []
    real = plan.draw_order
    monkeypatch.setattr(plan, "draw_order", lambda *a, **k: (order.append(real(*a, **k)), order[-1])[1])
    run(recipe, few, tmp_path)
    pixels = few[0].images[order[0]] / 255
    expected = F.interpolate(pixels, (24, 24), mode="bilinear", antialias=True)
    torch.testing.assert_close(seen[0], expected)
    torch.testing.assert_close(seen[1], few[0].images[order[1]] / 255)


def test_patience_does_not_end_a_run_within_its_small_images(
    few: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "validate", lambda *_, **__: (2.3, 0.1))
    settings = ["epochs=12", "early_image_size=24", "early_epochs=5", "patience=2", "batch_size=200"]
    part = few[0].select(torch.arange(20)), few[1]
    state = run(with_settings(with_fields(PLAIN, model="resnet20"), settings), part, tmp_path)
    assert state.best_epoch == 6  # the first on whole images
    assert state.epoch == 8


def test_alternate_flips_show_every_image_both_ways(
    few: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def spy(images: torch.Tensor, offsets: torch.Tensor, flips: torch.Tensor, **options: Any) -> torch.Tensor:
        seen.append(flips)
        return crop_and_flip(images, offsets, flips, **options)

    monkeypatch.setattr("cifar.training.augment.crop_and_flip", spy)
    recipe = with_fields(PLAIN, epochs=4, batch_size=200, flip=0.5, flip_mode="alternate")
    whole = run(recipe, few, tmp_path / "whole")
    assert [int(flips.sum()) for flips in seen] == [int(seen[0].sum()), 200 - int(seen[0].sum())] * 2
    assert 60 < seen[0].sum() < 140
    run(recipe, few, tmp_path / "broken", stop_after=2)
    assert whole.flips is not None
    run(recipe, few, tmp_path / "broken", resume=True)
    assert same_weights(tmp_path / "whole", tmp_path / "broken")


def test_plateau_and_patience_survive_a_resume(few: tuple[Split, Split], tmp_path: Path) -> None:
    recipe = with_fields(PLAIN, epochs=12, lr=1e-7, schedule="plateau", plateau_patience=1, patience=5)
    whole = run(recipe, few, tmp_path / "whole")
    run(recipe, few, tmp_path / "broken", stop_after=14)
    resumed = run(recipe, few, tmp_path / "broken", resume=True)
    rates = [row["learning_rate"] for row in whole.rows]
    assert rates == [row["learning_rate"] for row in resumed.rows]
    assert min(rates) < recipe.optimiser.lr / 9
    assert whole.epoch == resumed.epoch == whole.best_epoch + 5 < 12


@pytest.mark.parametrize("patience", [0, 1])
def test_patience_both_ways(patience: int, few: tuple[Split, Split], tmp_path: Path) -> None:
    state = run(with_fields(PLAIN, epochs=4, lr=1e-9, patience=patience), few, tmp_path)
    assert state.epoch == (2 if patience else 4)


def test_seeds_decide_the_weights(few: tuple[Split, Split], tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(with_fields(PLAIN, epochs=1, seed=seed), few, tmp_path / name)
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert not same_weights(tmp_path / "a", tmp_path / "c")


def test_best_weights_are_those_of_the_best_epoch(few: tuple[Split, Split], tmp_path: Path) -> None:
    state = run(with_fields(PLAIN, epochs=4), few, tmp_path)
    accuracies = [row["validation_accuracy"] for row in read_metrics(tmp_path)]
    assert state.best_epoch == accuracies.index(max(accuracies)) + 1
    model = build_model(PLAIN)
    model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    with torch.no_grad():
        predicted = model.eval()(few[1].images.float() / 255).argmax(1)
    assert (predicted == few[1].labels).double().mean().item() == max(accuracies)


def test_without_validation_the_last_weights_are_kept(few: tuple[Split, Split], tmp_path: Path) -> None:
    recipe = with_fields(PLAIN, validation_fraction=0)
    state = run(recipe, (few[0], few[1].select(torch.arange(0))), tmp_path)
    assert state.best_epoch == state.epoch == 2
    assert all(math.isnan(row["validation_accuracy"]) for row in read_metrics(tmp_path))


def test_ticks_tell_where_it_stands(few: tuple[Split, Split], tmp_path: Path) -> None:
    watching = Watching()
    train(PLAIN, *few, folder=tmp_path, display=watching)
    last = watching.ticks[-1]
    assert (last.epoch, last.epochs, last.step, last.steps) == (2, 2, 4, 4)
    assert last.seconds_left == 0
    assert last.loss == pytest.approx(read_metrics(tmp_path)[-1]["train_loss"])


def test_mean_loss_weighs_a_small_last_batch_by_its_size(few: tuple[Split, Split], tmp_path: Path) -> None:
    recipe = with_fields(PLAIN, epochs=1, lr=1e-12, batch_size=192)
    state = run(recipe, few, tmp_path)
    torch.manual_seed(recipe.seed)
    model = build_model(recipe)
    prepare_model(model, few[0].images)
    with torch.no_grad():
        loss = F.cross_entropy(model(to_pixels(few[0].images)), few[0].labels).item()
    assert state.rows[0]["train_loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.999])
def test_moving_average_equals_the_slow_formula(decay: float) -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    average = MovingAverage(layer)
    slow = 0.0
    for n, value in enumerate((3.0, -2.0, 8.0, 5.0)):
        torch.nn.init.constant_(layer.weight, value)
        average.update_parameters(layer, averaging_weight(decay, n))
        share = min(decay, (1 + n) / (10 + n)) if n else 0
        slow = share * slow + (1 - share) * value
    assert average.module.weight.item() == pytest.approx(slow)
    if decay == 0:
        assert average.module.weight.item() == 5.0


def test_moving_average_is_what_gets_saved(few: tuple[Split, Split], tmp_path: Path) -> None:
    state = run(with_fields(PLAIN, ema_decay=0.99, epochs=1), few, tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert state.average is not None
    assert all(torch.equal(saved[name], tensor) for name, tensor in state.average.module.state_dict().items())
    assert not all(torch.equal(saved[name], tensor) for name, tensor in state.model.state_dict().items())


def test_best_accuracy_survives_a_resume(few: tuple[Split, Split], tmp_path: Path) -> None:
    """The display is told of it, so that "(best)" does not start anew."""
    recipe = with_fields(PLAIN, epochs=6, lr=0.02)
    whole, first, second = Watching(), Watching(stop_after=13), Watching()
    for name, watching in (("whole", whole), ("broken", first), ("broken", second)):
        (tmp_path / name).mkdir(exist_ok=True)
        train(recipe, *few, folder=tmp_path / name, display=watching, resume=watching is second)
    assert first.best + second.best == whole.best
    assert (whole.best_at_start, first.best_at_start) == (-1, -1)
    accuracies = [row["validation_accuracy"] for row in read_metrics(tmp_path / "broken")]
    assert second.best_at_start == max(accuracies[:3])


def test_a_damaged_checkpoint_is_one_sentence(few: tuple[Split, Split], tmp_path: Path) -> None:
    run(PLAIN, few, tmp_path, stop_after=2)
    path = tmp_path / "last.ckpt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WorldError, match=r"last\.ckpt"):
        run(PLAIN, few, tmp_path, resume=True)
    torch.save({"epoch": 1}, path)
    (tmp_path / "checksums.json").unlink()
    with pytest.raises(WorldError, match="another recipe or version"):
        run(PLAIN, few, tmp_path, resume=True)
    path.unlink()
    with pytest.raises(WorldError, match="overwrite"):
        run(PLAIN, few, tmp_path, resume=True)


def test_the_rate_told_is_the_recipes_and_not_that_of_the_lowest_layer(
    few: tuple[Split, Split], tmp_path: Path
) -> None:
    recipe = with_fields(
        any_network(),
        model="timm:test_vit",
        epochs=1,
        layer_decay=0.5,
        schedule="constant",
        warmup_epochs=0,
    )
    state = run(recipe, few, tmp_path)
    assert state.rows[0]["learning_rate"] == recipe.optimiser.lr
    assert min(group["lr"] for group in state.optimiser.param_groups) < recipe.optimiser.lr
