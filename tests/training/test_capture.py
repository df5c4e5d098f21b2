"""Captured steps are the steps of a training: replayed where there is no GPU by a stand-in for its graphs."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graphs import Recording, recorder
from recorded_losses import few_images, recipe_of, tiny_weights
from torch import Tensor

from cifar.data.batches import to_device
from cifar.data.split import Split
from cifar.errors import WorldError
from cifar.kernels.build import using
from cifar.randomness import seed_generators
from cifar.recipes import Recipe, with_settings
from cifar.training import capture
from cifar.training.capture import Steps
from cifar.training.loop import run_step
from cifar.training.optimisers import freeze_finished, optimiser_values, rates_on_device
from cifar.training.plan import Plan, draw_plan
from cifar.training.state import State, new_state

CPU = torch.device("cpu")
NAMES = ("cnn", "resnet", "resnet-better", "vit", "previt", "speednet-quick")
# Two epochs, the last batch smaller; the rate falls, and speednet's image size and what is frozen change.
SMALLER = {"cnn": ["batch_size=8"], "speednet-quick": ["batch_size=8"], "vit": ["model=vit-tiny"]}


@pytest.fixture(autouse=True)
def pytorch_kernels() -> Iterator[None]:
    """Ours are no operations of PyTorch; a GPU does not have them either."""
    with using("pytorch"):
        yield


def images() -> Split:
    return to_device(few_images()[0].select(torch.arange(197)), CPU)


def prepared(recipe: Recipe) -> State:
    """A training before its first step, as `train` has it on a GPU."""
    seed_generators(recipe.seed)
    state = new_state(recipe, images(), device="cpu", precision="fp32")
    rates_on_device(state.optimiser)
    return state


def tensors_of_state(state: State) -> list[Tensor]:
    """All that outlives a step."""
    kept = [*state.model.state_dict().values(), state.totals]
    kept += state.average.module.state_dict().values() if state.average else []
    kept += [value for values in state.optimiser.state.values() for value in values.values() if value is not None]
    return kept + [group["lr"] for group in state.optimiser.param_groups]


def train(recipe: Recipe, *, replayed: bool, monkeypatch: pytest.MonkeyPatch, static: bool = True) -> State:
    """All epochs, by captured steps or one by one."""
    state, split, told = prepared(recipe), images(), []
    size = 0
    steps = Steps(
        lambda rows: run_step(
            recipe, state, state.model, split, rows, precision="fp32", image_size=size, static=static
        ),
        device=CPU, capture=replayed, say=told.append,
    )  # fmt: skip
    monkeypatch.setattr(capture, "captured", recorder(lambda: [*tensors_of_state(state), steps._counter]))
    for state.epoch in range(recipe.epochs):
        state.totals.zero_()
        state.model.train()
        size = recipe.augment.early_image_size if state.epoch < recipe.augment.early_epochs else 0
        plan = draw_plan(recipe, state, num_images=len(split))
        steps.begin(plan, phase=(size, freeze_finished(state.optimiser, epoch=state.epoch)))
        for number in range(len(plan.bounds) - 1):
            steps.step(number)
        state.generator.set_state(plan.generator)
    assert told == []
    assert (steps._replay is not None) == replayed
    return state


@pytest.mark.parametrize("name", [name for name in NAMES if name != "resnet"])
def test_replayed_steps_are_the_steps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = with_settings(
        recipe_of(name, tiny_weights(tmp_path)), ["batch_size=28", "epochs=2", *SMALLER.get(name, [])]
    )
    one_by_one = train(recipe, replayed=False, monkeypatch=monkeypatch)
    replayed = train(recipe, replayed=True, monkeypatch=monkeypatch)
    assert replayed.totals[2] == 197
    for ours, theirs in zip(tensors_of_state(replayed), tensors_of_state(one_by_one), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_stand_in_repeats_numbers_and_reads_memory() -> None:
    """What it is there to find: a rate of Python's is repeated, one in memory is read."""
    weight, rate, number = torch.zeros(()), torch.ones(()), 1.0

    def step() -> None:
        weight.add_(rate + number)

    replay = recorder(lambda: [weight])(step, None)
    assert weight == 0
    replay()
    rate.fill_(10)
    number = 100.0
    replay()
    assert weight == (1 + 1) + (10 + 1)


@pytest.mark.parametrize("name", ["resnet", "vit", "speednet-quick"])
def test_steps_for_a_gpu_are_those_of_a_cpu_but_for_rounding(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["batch_size=50", "epochs=1", "early_epochs=0", "early_image_size=0"]
    recipe = with_settings(recipe_of(name, tiny_weights(tmp_path)), settings)
    ours = train(recipe, replayed=False, monkeypatch=monkeypatch)
    monkeypatch.setattr(f"{__name__}.rates_on_device", lambda _: None)
    theirs = train(recipe, replayed=False, monkeypatch=monkeypatch, static=False)
    torch.testing.assert_close(ours.totals[0], theirs.totals[0], rtol=1e-3, atol=0)


FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "is_nonzero", "unique", "_to_cpu")
MOST = {
    "cnn": 70, "resnet": 260, "resnet-better": 360, "vit": 560, "previt": 800, "speednet-quick": 210,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_step_waits_for_no_gpu(name: str, tmp_path: Path) -> None:
    """No number goes from a tensor to Python or back, and there are not too many operations to start."""
    recipe = with_settings(recipe_of(name, tiny_weights(tmp_path)), ["batch_size=50"])
    state, split = prepared(recipe), images()
    plan = draw_plan(recipe, state, num_images=len(split))
    size = recipe.augment.early_image_size

    def take(number: int) -> None:
        run_step(recipe, state, state.model, split, plan.step(number), precision="fp32", image_size=size, static=True)

    take(0)
    with Recording() as recording:
        take(1)
    names = [func._schema.name.removeprefix("aten::") for func, *_ in recording.calls]
    assert not {name for name in names if name.startswith(FORBIDDEN)}
    # Gradients are copied here because the recording holds them.
    work = [
        func for func, *_ in recording.work() if func._schema.name not in ("aten::new_empty_strided", "aten::copy_")
    ]
    assert len(work) < MOST[name]


def test_a_checkpoint_of_a_cpu_does_not_forbid_capturing(tmp_path: Path) -> None:
    """Loading it takes over what its optimiser's groups say."""
    state = prepared(recipe_of("cnn", tiny_weights(tmp_path)))
    on_cpu = new_state(recipe_of("cnn", tmp_path / "weights.safetensors"), images(), device="cpu", precision="fp32")
    state.optimiser.load_state_dict(optimiser_values(on_cpu.optimiser))
    assert not any(group["capturable"] for group in state.optimiser.param_groups)
    rates_on_device(state.optimiser)
    assert all(group["capturable"] for group in state.optimiser.param_groups)


class Fallback:
    """Steps of which capturing fails somehow, over two epochs of five full batches and a smaller one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, captured: Any = None, waits: bool = False) -> None:
        def warm_up(step: Any, _stream: object) -> bool:
            step()
            return waits

        monkeypatch.setattr(capture, "captured", captured or (lambda step, _: step))
        monkeypatch.setattr(capture, "warm_up", warm_up)
        self.taken: list[int] = []
        self.told: list[str] = []
        steps = Steps(self.run, device=CPU, capture=True, say=self.told.append)
        for epoch in range(2):
            plan = Plan({"indices": torch.arange(53) + 100 * epoch}, [0, 10, 20, 30, 40, 50, 53], torch.empty(0))
            steps.begin(plan, phase=0)
            for number in range(6):
                steps.step(number)

    def run(self, rows: Any) -> None:
        self.taken += rows["indices"].tolist()


def test_what_cannot_be_captured_is_said_once_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = [*range(53), *range(100, 153)]
    case = Fallback(monkeypatch)
    assert (case.taken, case.told) == (everything, [])

    def fails(error: Exception) -> Any:
        def captured(*_: object) -> None:
            raise error

        return captured

    for case, word in (
        (Fallback(monkeypatch, waits=True), "it waits for the GPU"),
        (Fallback(monkeypatch, captured=fails(RuntimeError("no such operation\nin a graph"))), "no such operation"),
        (Fallback(monkeypatch, captured=fails(WorldError("There is not enough memory"))), "not enough memory"),
    ):
        assert case.taken == everything
        assert len(case.told) == 1
        assert word in case.told[0]
        assert "in a graph" not in case.told[0]


def test_a_network_that_draws_from_python_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    for draw in (random.random, np.random.rand):
        with monkeypatch.context() as patch:
            real = Fallback.run
            patch.setattr(Fallback, "run", lambda self, rows, draw=draw, real=real: (draw(), real(self, rows)))
            case = Fallback(patch)
        assert case.taken == [*range(53), *range(100, 153)]
        assert "draws random numbers" in case.told[0]


def test_a_single_batch_and_whole_batches_are_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    for bounds in ([0, 7], [0, 5, 10, 15, 20]):
        taken: list[int] = []
        result = torch.zeros(bounds[1], dtype=torch.int64)
        steps = Steps(lambda rows: result.copy_(rows["indices"]), device=CPU, capture=True, say=pytest.fail)  # noqa: B023
        monkeypatch.setattr(capture, "captured", recorder(lambda: [result, steps._counter]))  # noqa: B023
        for epoch in range(6):
            steps.begin(Plan({"indices": torch.arange(bounds[-1]) + epoch}, bounds, torch.empty(0)), phase=0)
            for number in range(len(bounds) - 1):
                steps.step(number)
                taken += result.tolist()
        assert taken == [index + epoch for epoch in range(6) for index in range(bounds[-1])]
