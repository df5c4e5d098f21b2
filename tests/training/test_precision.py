"""What reaches the network in mixed precision, and that a pretrained one trains in it; slow in emulation, but tiny."""

import pytest
import torch
from torch import Tensor, nn

from cifar import machine
from cifar.models.pretrained import previt
from cifar.training.precision import open_fabric


class Spy(nn.Module):
    """A linear layer that keeps what it was given and what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        self.given, self.gave = pixels, self.linear(pixels)
        return self.gave  # type: ignore[no-any-return]


@pytest.mark.parametrize("wanted, inside", [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_pixels_arrive_in_full_and_products_are_in_the_precision(
    wanted: str, inside: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "has_bf16", lambda _: True)
    fabric, remark = open_fabric(wanted, device="cpu")
    assert remark == ""
    spy = Spy()
    model = fabric.setup(spy)
    pixels = torch.full((3, 4), 255 / 256 + 2**-12)  # no bf16 number
    logits = model(pixels)
    assert torch.equal(spy.given, pixels)
    assert spy.gave.dtype == inside
    assert logits.dtype == torch.float32


def test_a_pretrained_network_trains_in_bf16_on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """It resizes its images first, which a processor cannot do in bf16."""
    monkeypatch.setattr(machine, "has_bf16", lambda _: True)
    fabric, _ = open_fabric("bf16", device="cpu")
    model = fabric.setup(previt(model_name="test_vit.r160_in1k", image_size=48, pretrained=False))
    loss = model(torch.rand(2, 3, 32, 32)).square().sum()
    fabric.backward(loss)
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


def test_hardware_without_bf16_trains_in_fp32_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_bf16", lambda _: False)
    fabric, remark = open_fabric("bf16", device="cpu")
    assert "training in fp32" in remark
    assert fabric.strategy.precision.precision == "32-true"
