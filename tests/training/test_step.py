"""One optimisation step against PyTorch written out, and what precision means in it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from cifar.errors import WorldError
from cifar.machine import choose_precision
from cifar.models.pretrained import previt
from cifar.training.step import mixed_loss, training_step


class Spy(nn.Module):
    """A linear layer that keeps its input and its output."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        self.pixels, self.logits = pixels, self.linear(pixels)
        return self.logits  # type: ignore[no-any-return]


def step(model: nn.Module, pixels: Tensor, *, precision: str = "fp32", clip_norm: float = 0.0) -> tuple[Tensor, Tensor]:
    labels = torch.arange(len(pixels)) % 10
    return training_step(
        model, torch.optim.SGD(model.parameters(), lr=0.1), GradScaler("cpu", enabled=False),
        (pixels, labels, labels, None), precision=precision, label_smoothing=0.0, clip_norm=clip_norm,
    )  # fmt: skip


@pytest.mark.parametrize("precision, inside", [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_pixels_arrive_in_fp32_and_products_are_in_the_precision(precision: str, inside: torch.dtype) -> None:
    spy, pixels = Spy(), torch.full((3, 4), 255 / 256 + 2**-12)  # no bf16 number
    _, logits = step(spy, pixels, precision=precision)
    assert torch.equal(spy.pixels, pixels)
    assert spy.logits.dtype == inside
    assert logits.dtype == torch.float32


def test_a_pretrained_network_trains_in_bf16_on_a_cpu() -> None:
    """It resizes its images first, which a CPU cannot do in bf16."""
    model = previt(model_name="test_vit.r160_in1k", image_size=48, pretrained=False)
    step(model, torch.rand(2, 3, 32, 32), precision="bf16")
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


def test_hardware_without_bf16_trains_in_fp32_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifar.machine.has_bf16", lambda _: False)
    precision, remark = choose_precision("bf16", device="cpu", native=True)
    assert precision == "fp32"
    assert "training in fp32" in remark


@pytest.mark.parametrize("clip_norm", [0.0, 0.01, 1e6])
def test_a_step_is_pytorchs_own(clip_norm: float) -> None:
    torch.manual_seed(0)
    model, pixels = Spy(), torch.rand(5, 4)
    twin = copy.deepcopy(model)
    loss, logits = step(model, pixels, clip_norm=clip_norm)
    optimiser = torch.optim.SGD(twin.parameters(), lr=0.1)
    expected = F.cross_entropy(twin(pixels), torch.arange(5))
    expected.backward()
    if clip_norm:
        nn.utils.clip_grad_norm_(twin.parameters(), clip_norm)
    optimiser.step()
    assert loss.item() == expected.item()
    assert not loss.requires_grad
    assert not logits.requires_grad
    assert torch.equal(model.linear.weight, twin.linear.weight)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 80000000000 bytes."),
    ],
)
def test_out_of_memory_is_one_sentence_that_names_the_batch(error: Exception) -> None:
    class Large(Spy):
        def forward(self, pixels: Tensor) -> Tensor:  # noqa: ARG002
            raise error

    with pytest.raises(
        WorldError, match="not enough memory to train on 7 images at a time: give a --batch-size below 7"
    ):
        step(Large(), torch.rand(7, 4))


def test_a_real_allocation_that_fails_is_told_as_such() -> None:
    class Large(Spy):
        def forward(self, pixels: Tensor) -> Tensor:
            return self.linear(pixels) + torch.empty(2**46).sum()  # type: ignore[no-any-return]

    with pytest.raises(WorldError, match="not enough memory"):
        step(Large(), torch.rand(7, 4))
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):  # other errors stay what they are
        step(Spy(), torch.rand(7, 5))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0])
def test_mixed_loss_equals_cross_entropy_with_soft_labels(smoothing: float, lam: float) -> None:
    logits = torch.randn(7, 10, generator=torch.Generator().manual_seed(0))
    labels, mixed_labels = torch.arange(7), torch.arange(7).flip(0)
    soft = lam * F.one_hot(labels, 10) + (1 - lam) * F.one_hot(mixed_labels, 10)
    soft = (1 - smoothing) * soft + smoothing / 10
    slow = -(soft * logits.log_softmax(1)).sum(1).mean()
    weights = torch.tensor([lam, 1 - lam])
    found = mixed_loss(logits, labels, mixed_labels, weights=weights, label_smoothing=smoothing)
    torch.testing.assert_close(found, slow)
    if lam == 1:
        assert found == mixed_loss(logits, labels, mixed_labels, weights=None, label_smoothing=smoothing)
