"""Networks of a person's own, which tests name as "own_networks:function"."""

import math

from torch import Tensor, nn


class TurnsBad(nn.Module):
    """A small network with batch normalisation, of which one training step has a loss or a gradient that is not finite.

    Args:
        at: number of that step, from 1.
        gradient: it is the gradient; else the loss.
    """

    def __init__(self, *, at: int, gradient: bool) -> None:
        super().__init__()
        self.at, self.gradient = at, gradient
        self.layers = nn.Sequential(nn.AvgPool2d(8), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 10))
        self.count = 0

    def forward(self, images: Tensor) -> Tensor:
        if not self.training:
            return self.layers(images)  # type: ignore[no-any-return]
        self.count += 1
        if self.count != self.at:
            return self.layers(images)  # type: ignore[no-any-return]
        if self.gradient:
            return self.layers(images) + (self.layers[3].bias * 0).sqrt()  # type: ignore[no-any-return]  # √0 is steep
        return self.layers(images * math.inf)  # type: ignore[no-any-return]


def bad_loss() -> nn.Module:
    """The sixth training step has no finite loss; the forward pass would ruin the batch statistics, too."""
    return TurnsBad(at=6, gradient=False)


def bad_gradient() -> nn.Module:
    """The eighth training step has a finite loss and no finite gradient."""
    return TurnsBad(at=8, gradient=True)


def bad_at_once() -> nn.Module:
    """The first training step has no finite gradient."""
    return TurnsBad(at=1, gradient=True)
