"""A training whose numbers are no longer finite stops at once, and what was good stays."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from cifar.data.split import Split
from cifar.errors import WorldError
from cifar.recipes import Optimiser, Recipe, with_fields
from cifar.runs import read_checkpoint
from cifar.training import loop
from cifar.training.display import Display
from cifar.training.loop import train
from cifar.training.step import all_finite, training_step

BAD = Recipe(
    model="own_networks:bad_loss", epochs=3, batch_size=64, optimiser=Optimiser(lr=0.05)
)  # four steps an epoch
BAD_GRADIENT = with_fields(BAD, model="own_networks:bad_gradient")


def saved(folder: Path) -> tuple[int, int]:
    """Epochs and steps of the last checkpoint, whose weights are finite."""
    values = read_checkpoint(folder, model_bytes=10**6)
    assert all_finite(values["model"].values())
    return values["epoch"], values["step"]


def test_a_bad_gradient_in_the_last_step_of_an_epoch_spares_the_checkpoint(
    few: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loss is finite, so that only the weights tell; or, where a short epoch is not saved, the next loss."""
    with pytest.raises(WorldError, match="by step 1 of epoch 3: the loss is nan"):
        train(BAD_GRADIENT, *few, folder=tmp_path)
    assert saved(tmp_path) == (1, 0)
    monkeypatch.setattr(loop, "SHORT_SECONDS", 0.0)
    with pytest.raises(WorldError, match="by the end of epoch 2: a weight is not finite") as raised:
        train(BAD_GRADIENT, *few, folder=tmp_path)
    assert f"{tmp_path / 'last.ckpt'} is good, after epoch 1: go on from there with" in str(raised.value)
    assert f"cifar train --resume {tmp_path} -l 0.017" in str(raised.value)
    assert saved(tmp_path) == (1, 0)


@pytest.mark.parametrize("checkpoint_seconds, place", [(0.0, (1, 0)), (1e-9, (1, 1))])
def test_a_bad_loss_stops_the_training_within_the_epoch(
    checkpoint_seconds: float, place: tuple[int, int], few: tuple[Split, Split], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(loop, "TICK_SECONDS", 0.0)
    with pytest.raises(WorldError, match=r"by step 2 of epoch 2: the loss is (nan|inf) \(peak learning rate 0\.05\)"):
        train(BAD, *few, folder=tmp_path, checkpoint_seconds=checkpoint_seconds)
    assert saved(tmp_path) == place


def test_divergence_before_the_first_checkpoint_says_so(few: tuple[Split, Split], tmp_path: Path) -> None:
    with pytest.raises(
        WorldError, match=r"Nothing was saved before: train again with --overwrite and -l 3.3e\+14 or lower"
    ):
        train(with_fields(BAD, model="resnet20", lr=1e15), *few, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


class StopAt(Display):
    def should_stop(self) -> bool:
        return True


def test_a_stop_does_not_save_bad_weights(few: tuple[Split, Split], tmp_path: Path) -> None:
    with pytest.raises(WorldError, match="Nothing was saved"):
        train(with_fields(BAD, model="own_networks:bad_at_once"), *few, folder=tmp_path, display=StopAt())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", [BAD, BAD_GRADIENT], ids=["loss", "gradient"])
@pytest.mark.parametrize("allowed", [1, 5])
def test_bad_steps_are_skipped_and_counted(
    recipe: Recipe, allowed: int, few: tuple[Split, Split], tmp_path: Path
) -> None:
    state = train(with_fields(recipe, skip_bad_steps=allowed, ema_decay=0.9), *few, folder=tmp_path)
    assert (state.finished, state.skipped_steps) == (True, 1)
    assert saved(tmp_path) == (3, 0)
    assert [row["train_loss"] < 10 for row in state.rows] == [True] * 3


def test_a_skipped_step_changes_nothing() -> None:
    """Weights, buffers and momentum are as before it; the steps after it are those of a training without it."""
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.rand(8, 3, 32, 32, generator=generator), torch.arange(8)) for _ in range(4)]

    def steps(chosen: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(10))
        model(batches[0][0])
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for pixels, labels in chosen:
            try:
                training_step(
                    model, optimiser, GradScaler("cpu", enabled=False), (pixels, labels, labels, None),
                    precision="fp32", label_smoothing=0.0, clip_norm=1.0, refuse_bad=True,
                )  # fmt: skip
            except FloatingPointError:
                continue
        return model.state_dict()

    bad = (batches[1][0] * torch.inf, batches[1][1])
    first, second = steps([batches[0], bad, *batches[2:]]), steps([batches[0], *batches[2:]])
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_finite_is_exact_at_both_ends() -> None:
    largest = torch.full((3,), torch.finfo(torch.float32).max)
    assert all_finite([])
    assert all_finite([largest, -largest, torch.tensor([1])])
    for bad in (torch.nan, torch.inf, -torch.inf):
        assert not all_finite([largest, torch.tensor([1.0, bad])])
