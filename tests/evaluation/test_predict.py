"""Predictions against a slow loop over images, and views against shifts made by hand."""

import pytest
import torch
from torch import Generator, Tensor, nn

from cifar.errors import InputError
from cifar.evaluation.predict import VIEWS, predict, predict_logits, view_pixels

NUM_IMAGES = 23  # no multiple of any batch size used here


@pytest.fixture
def model() -> nn.Module:
    """A network whose answers depend on its mode, on place and on orientation; left in training mode."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(),
        nn.Linear(128, 10),
    )  # fmt: skip
    model(torch.rand(16, 3, 32, 32))
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.randint(256, (NUM_IMAGES, 3, 32, 32), dtype=torch.uint8, generator=Generator().manual_seed(1))


@torch.no_grad()
def slow_logits(model: nn.Module, images: Tensor) -> Tensor:
    """One image at a time, in evaluation mode."""
    model.eval()
    logits = [model(image[None].float() / 255)[0] for image in images]
    model.train()
    return torch.stack(logits)


def slow_shift(image: Tensor, step: int) -> Tensor:
    """Move an image [3, 32, 32] by (step, step), pixel by pixel, reflecting at the border without repeating it."""

    def reflected(place: int) -> int:
        return -place if place < 0 else 62 - place if place > 31 else place

    source = [reflected(place - step) for place in range(32)]
    moved = torch.empty_like(image)
    for row in range(32):
        for column in range(32):
            moved[:, row, column] = image[:, source[row], source[column]]
    return moved


def slow_views(image: Tensor, views: str) -> list[Tensor]:
    shifted = [slow_shift(image, step) for step in (-1, 0, 1)] if views == "shift" else [image]
    mirrored = [torch.stack([view[:, :, 31 - column] for column in range(32)], dim=2) for view in shifted]
    return shifted if views == "none" else shifted + mirrored


def test_logits_are_those_of_a_slow_loop(model: nn.Module, images: Tensor) -> None:
    logits = predict_logits(model, images, batch_size=7)
    torch.testing.assert_close(logits, slow_logits(model, images))
    assert logits.dtype == torch.float32
    assert logits.device.type == "cpu"


@pytest.mark.parametrize("most, sizes", [(3, [10, 5, 3, 3, 3, 1]), (0, [10, 5, 3, 2, 1])])
def test_a_device_without_memory_gets_fewer_images_at_a_time(
    model: nn.Module, images: Tensor, most: int, sizes: list[int]
) -> None:
    seen: list[int] = []

    def refuse(_model: nn.Module, inputs: tuple[Tensor]) -> None:
        seen.append(len(inputs[0]))
        if seen[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    expected = predict_logits(model, images[:10])
    model.register_forward_pre_hook(refuse)
    if most:
        torch.testing.assert_close(predict_logits(model, images[:10], batch_size=10), expected)
    else:
        with pytest.raises(torch.OutOfMemoryError):
            predict_logits(model, images[:10], batch_size=10)
    assert seen == sizes


@pytest.mark.parametrize("views, number", [("none", 1), ("mirror", 2), ("shift", 6)])
def test_probabilities_are_the_mean_over_views(model: nn.Module, images: Tensor, views: str, number: int) -> None:
    probs = predict(model, images[:5], views=views, batch_size=2)
    for image, found in zip(images[:5], probs, strict=True):
        seen = torch.stack(slow_views(image, views))
        assert len(seen) == number
        torch.testing.assert_close(found, slow_logits(model, seen).softmax(dim=1).mean(dim=0))


@pytest.mark.parametrize("view", [(False, 1, 1), (False, -1, -1), (True, 1, 1)])
def test_a_view_is_the_shift_made_by_hand(images: Tensor, view: tuple[bool, int, int]) -> None:
    mirrored, step, _ = view
    expected = torch.stack([slow_shift(image, step) for image in images[:3]]).float()
    assert torch.equal(view_pixels(images[:3].float(), view), expected.flip(-1) if mirrored else expected)


def test_rows_and_columns_are_not_confused() -> None:
    pixels = torch.zeros(1, 1, 5, 5)
    pixels[0, 0, 2, 2] = 1
    assert view_pixels(pixels, (False, 1, 0)).nonzero().tolist() == [[0, 0, 3, 2]]
    assert view_pixels(pixels, (False, 0, -1)).nonzero().tolist() == [[0, 0, 2, 1]]


@pytest.mark.parametrize("below", [0.0, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("views", VIEWS)
def test_only_unsure_images_get_other_views(model: nn.Module, images: Tensor, views: str, below: float) -> None:
    plain, all_views = (predict(model, images, views=each, batch_size=3) for each in ("none", views))
    limit = plain.amax(1).quantile(below).item() if below in (0.5, 0.999) else below  # some images on either side
    found = predict(model, images, views=views, below=limit, batch_size=4)
    for one, before, after in zip(found, plain, all_views, strict=True):
        torch.testing.assert_close(one, after if before.max() < limit or below == 1 else before)


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("batch_size", [1, 8, NUM_IMAGES, 500])
def test_the_batch_size_changes_nothing(model: nn.Module, images: Tensor, views: str, batch_size: int) -> None:
    probs = predict(model, images, views=views, batch_size=batch_size)
    torch.testing.assert_close(probs, predict(model, images, views=views, batch_size=10))
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(NUM_IMAGES))


def test_every_module_gets_its_mode_back(model: nn.Module, images: Tensor) -> None:
    model.train()
    model[1].eval()  # a frozen normalisation stays frozen
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    predict(model, images, views="mirror")
    assert [module.training for module in model] == [True, False, True, True, True, True, True]
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name  # the running statistics did not move
    model.eval()
    predict_logits(model, images)
    assert not any(module.training for module in model.modules())


def test_the_mode_comes_back_after_an_error(model: nn.Module) -> None:
    with pytest.raises(RuntimeError):
        predict(model, torch.zeros(2, 4, 32, 32, dtype=torch.uint8))
    assert all(module.training for module in model.modules())


def test_a_wrapped_model_gives_the_same(model: nn.Module, images: Tensor) -> None:
    expected = predict(model, images)
    wrapped = nn.DataParallel(model)
    wrapped.train()
    torch.testing.assert_close(predict(wrapped, images), expected)
    assert all(module.training for module in model.modules())


def test_a_temperature_can_be_fitted_to_the_logits(model: nn.Module, images: Tensor) -> None:
    scale = torch.ones(1, requires_grad=True)
    (predict_logits(model, images) * scale).logsumexp(dim=1).sum().backward()
    assert scale.grad is not None


def test_progress_counts_images(model: nn.Module, images: Tensor) -> None:
    calls: list[tuple[int, int]] = []
    predict(model, images, views="mirror", batch_size=10, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(10, 23), (20, 23), (23, 23)]


def test_no_images_give_no_rows(model: nn.Module, images: Tensor) -> None:
    assert predict(model, images[:0]).shape == (0, 10)


def test_pixels_that_were_scaled_already_are_refused(model: nn.Module, images: Tensor) -> None:
    with pytest.raises(AssertionError, match="float32"):
        predict(model, images.float() / 255)


def test_unknown_views_name_the_choices(model: nn.Module, images: Tensor) -> None:
    with pytest.raises(InputError, match="none, mirror, shift"):
        predict(model, images, views="tencrop")
