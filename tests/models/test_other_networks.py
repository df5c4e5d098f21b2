"""Networks of other people through the whole house: tried, trained with a moving average, resumed, saved, predicted."""

import copy
import random
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cifar.data.batches import to_pixels
from cifar.data.split import Split
from cifar.errors import InputError, Remark
from cifar.evaluation.predict import predict
from cifar.models import build_model
from cifar.models.hooks import make_contiguous, place
from cifar.randomness import generator_states
from cifar.recipes import Recipe, recipe_for, to_json, with_fields
from cifar.runs import load_network, write_files
from cifar.serving.onnx_file import open_session, run_session, to_onnx
from cifar.training.display import Display
from cifar.training.ema import MovingAverage, averaging_weight
from cifar.training.loop import train
from cifar.training.state import State

WORKING = (
    "torchvision_layers", "late_norm", "indexed", "indexed_saved", "Shared", "Views", "LeNet", "Strided",
    "TrainingView", "Auxiliary", "InPlace", "Drawing", "Complex", "lazy", "half_used",
)  # fmt: skip
# Built by the same names in other_networks.py, which only the product imports: it has to make torchvision work first.
FAMILIES = (
    "swin", "beit", "levit", "tiny_vit", "efficientformer", "efficientformerv2", "maxvit", "convnext", "mobilenet",
    "xcit", "densenet", "deit", "cait",
)  # fmt: skip
EXPORTED = ("LeNet", "Shared")


def recipe_of(name: str, **fields: Any) -> Recipe:
    """Two epochs of two batches on nine images, the second with the image that would be a batch of its own."""
    fields = {"epochs": 2, "batch_size": 4, "ema_decay": 0.9, "lr": 1e-3, "flip": 0.0, "crop_padding": 0} | fields
    return with_fields(recipe_for(f"other_networks:{name}"), **fields)


def build(name: str, **fields: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_model(recipe_of(name, **fields), for_training=True, trust_code=True)


@pytest.fixture(scope="module")
def tiny(few: tuple[Split, Split]) -> tuple[Split, Split]:
    return few[0].select(torch.arange(9)), few[1].select(torch.arange(5))


class Stopping(Display):
    """Stops after a step, and keeps what it is told."""

    def __init__(self, stop_after: int = 0) -> None:
        self.steps, self.stop_after = 0, stop_after
        self.said: list[str] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    def should_stop(self) -> bool:
        self.steps += 1
        return self.steps == self.stop_after


def run(recipe: Recipe, tiny: tuple[Split, Split], folder: Path, *, stop_after: int = 0, resume: bool = False) -> State:
    folder.mkdir(exist_ok=True)
    write_files(folder, {"recipe.json": to_json(recipe)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Remark)
        return train(recipe, *tiny, folder=folder, display=Stopping(stop_after), resume=resume)


def tensors_of(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


@pytest.mark.parametrize("name", [*WORKING, *FAMILIES])
def test_a_network_is_trained_averaged_resumed_saved_and_predicted(
    name: str, tiny: tuple[Split, Split], tmp_path: Path
) -> None:
    recipe = recipe_of(name)
    whole = run(recipe, tiny, tmp_path / "whole")
    assert not run(recipe, tiny, tmp_path / "broken", stop_after=3).finished
    resumed = run(recipe, tiny, tmp_path / "broken", resume=True)
    assert whole.epoch == resumed.epoch == 2
    assert whole.average is not None
    assert resumed.average is not None
    for ours, theirs in zip(tensors_of(whole.average), tensors_of(resumed.average), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    loaded = load_network(tmp_path / "broken", trust_code=True)
    if whole.best_epoch == 2:
        # Tensors that are not saved come from the network's own construction.
        for ours, theirs in zip(tensors_of(loaded), tensors_of(whole.average.module), strict=True):
            assert torch.equal(ours, theirs)
        assert torch.equal(predict(loaded, tiny[1].images), predict(whole.candidate, tiny[1].images))
    mirrored = predict(loaded, tiny[1].images, views="mirror")
    one_by_one = [predict(loaded, image[None], views="mirror") for image in tiny[1].images]
    torch.testing.assert_close(mirrored, torch.cat(one_by_one), rtol=1e-3, atol=1e-4)
    if name in EXPORTED:
        session = open_session(to_onnx(loaded, kind="float", metadata={}))
        torch.testing.assert_close(
            run_session(session, tiny[1].images), predict(loaded, tiny[1].images), rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("name", ["indexed", "indexed_saved", "Shared", "Views", "swin", "levit"])
@pytest.mark.parametrize("on_device", [False, True])
def test_a_moving_average_against_the_slow_formula(name: str, on_device: bool) -> None:
    """Integers and truth values are copied; a tensor under several names is averaged once."""
    model = build(name)
    average = MovingAverage(model)
    slow = [tensor.detach().clone() for tensor in tensors_of(model)]
    generator = torch.Generator().manual_seed(0)
    for step in range(4):
        with torch.no_grad():
            seen = set()
            for tensor in tensors_of(model):
                if tensor.untyped_storage().data_ptr() not in seen and tensor.is_floating_point():
                    tensor.add_(torch.randn(tensor.shape, generator=generator))
                elif tensor.ndim == 0 and not tensor.is_floating_point():
                    tensor.add_(1)
                seen.add(tensor.untyped_storage().data_ptr())
        weight: Tensor | float = averaging_weight(0.9, step)
        average.update_parameters(model, torch.tensor(weight) if on_device else weight)
        decay = min(0.9, (1 + step) / (10 + step)) if step else 0.0
        for place_, tensor in enumerate(tensors_of(model)):
            if tensor.is_floating_point():
                slow[place_] = decay * slow[place_] + (1 - decay) * tensor.detach()
            else:
                slow[place_] = tensor.clone()
    for ours, theirs in zip(tensors_of(average.module), slow, strict=True):
        torch.testing.assert_close(ours.detach(), theirs)
        assert ours.dtype == theirs.dtype


def test_two_hundred_steps_leave_an_index_alone() -> None:
    model = build("swin")
    average = MovingAverage(model)
    for step in range(200):
        average.update_parameters(model, averaging_weight(0.999, step))
    integers = [name for name, buffer in model.named_buffers() if not buffer.is_floating_point()]
    assert integers
    for name in integers:
        assert torch.equal(average.module.get_buffer(name), model.get_buffer(name)), name


@pytest.mark.parametrize("name", ["LeNet", "Strided", "TrainingView"])
def test_networks_that_need_contiguous_memory_get_it(name: str, tiny: tuple[Split, Split]) -> None:
    """In whatever memory the pixels come, the answer is that for contiguous ones."""
    model = build(name).eval()
    plain = copy.deepcopy(model)
    plain._forward_pre_hooks.clear()
    place(model, "cpu")
    assert make_contiguous in model._forward_pre_hooks.values()
    pixels = to_pixels(tiny[0].images)
    with torch.no_grad():
        assert torch.equal(model(pixels), plain(pixels.contiguous()))


@pytest.mark.parametrize("name", ["Shared", "indexed", "swin", "convnext", "mobilenet"])
def test_networks_that_do_not_need_it_stay_channels_last(name: str) -> None:
    assert not build(name)._forward_pre_hooks


def test_pixels_are_not_changed_by_a_network_that_works_in_place(tiny: tuple[Split, Split]) -> None:
    model, pixels = build("InPlace").eval(), to_pixels(tiny[0].images)
    before = pixels.clone()
    model(pixels)
    assert torch.equal(pixels, before)


def test_only_the_first_of_several_outputs_is_trained_and_that_is_said(tiny: tuple[Split, Split]) -> None:
    with pytest.warns(Remark, match="Auxiliary gives 2 outputs in training: only the first is trained"):
        model = build("Auxiliary")
    assert model.train()(to_pixels(tiny[0].images)).shape == (9, 10)


@pytest.mark.parametrize("name", ["Drawing", "lazy", "Shared", "indexed", "uncopyable"])
def test_the_trial_changes_neither_weights_nor_generators(name: str) -> None:
    def seed() -> None:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)

    build("Shared")  # imports their module
    seed()
    plain = getattr(sys.modules["other_networks"], name)()
    if name != "lazy":
        after = generator_states()
    seed()
    model = build_model(recipe_of(name, ema_decay=0), for_training=True, trust_code=True)
    if name == "lazy":  # its weights are drawn when it first sees pixels
        assert model[0].weight.shape == (8, 3, 3, 3)
        return
    for ours, theirs in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert model.training
    assert repr(generator_states()) == repr(after)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_draws_of_python_and_numpy_follow_the_seed(tiny: tuple[Split, Split], tmp_path: Path) -> None:
    weights = []
    for seed, noise in ((1, 5), (1, 6), (2, 5)):
        random.seed(noise)
        np.random.seed(noise)
        state = run(recipe_of("Drawing", seed=seed), tiny, tmp_path / f"{seed}-{noise}")
        weights.append(torch.cat([parameter.detach().flatten() for parameter in state.model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_last_image_alone_is_said_once(tiny: tuple[Split, Split], tmp_path: Path) -> None:
    display = Stopping()
    train(recipe_of("Shared"), *tiny, folder=tmp_path, display=display)
    assert [sentence for sentence in display.said if "batch" in sentence] == [
        "The last of 9 images would be a batch of its own: it joins the batch before it."
    ]
    assert display.steps == 4


@pytest.mark.parametrize(
    "name, words",
    [
        ("VGG", r"cannot be called without arguments .*'vgg_name'.* `def network\(\): return VGG"),
        ("raising", "raising fails with KeyError: 'VGG99'"),
        ("leaving", "leaving fails with SystemExit: 3"),
        ("wide", r"gives \[2, 1000\] for two images: it must give logits \[2, 10\]"),
        ("nothing_to_train", "nothing to train"),
        ("no_parameters", "nothing to train"),
        ("frozen", "nothing to train"),
        ("Detached", "without a gradient"),
        ("Classes", "in floating point"),
        ("NotFinite", "not finite before it is trained"),
        ("Dictionary", "in training gives a dict"),
        ("FailsInTraining", "fails in a step of training on 2 images with ValueError: targets"),
        ("KeepsMore", "holds a dict under '_extra_state'"),
        ("Growing", "makes or reshapes seen when it is called: its constructor must make it"),
        ("TwoAtATime", "takes two images, but fails on three with RuntimeError: shape"),
        ("Expanded", "cannot load its own weights again: .*zeros"),
        ("half", r"fails on two images \[2, 3, 32, 32\] with RuntimeError"),
        ("uncopyable", "cannot be copied for a moving average .* --set ema_decay=0"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        build(name)
    assert str(caught.value).startswith(f"other_networks:{name} ")
    assert "\n" not in str(caught.value)


def test_a_batch_of_one_with_batch_normalisation_is_refused() -> None:
    with pytest.raises(InputError, match=r"on one image with ValueError: .*: give --batch-size 2 or more"):
        build("late_norm", batch_size=1)
    build("convnext", batch_size=1)
    with pytest.raises(InputError, match="on 2 images with ValueError: targets"):  # a larger batch would not help
        build("FailsInTraining", batch_size=1)


def test_networks_may_import_torchvision_and_timm_themselves() -> None:
    """Before this package has, in a Python of its own."""
    code = (
        "from cifar.models import build_model\nfrom cifar.recipes import recipe_for\n"
        "build_model(recipe_for('other_networks:torchvision_layers'), trust_code=True)"
    )
    folder = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_functions_of_python_itself_are_no_networks() -> None:
    for name in ("builtins:breakpoint", "os:abort", "sys:exit", "http.server:test"):
        with pytest.raises(InputError, match="is a module of Python itself"):
            build_model(recipe_for(name), trust_code=True)
    with pytest.raises(InputError, match="written in Python"):
        build_model(recipe_for("torch:zeros"), trust_code=True)
