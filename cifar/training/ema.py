"""An exponential moving average of the weights, which is validated and saved in their place."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def average_of(model: nn.Module, *, decay: float) -> AveragedModel:
    """A moving average of a network's weights and buffers.

    Args:
        model: on its device.
        decay: per step, once it has warmed up.
    """
    return AveragedModel(model, multi_avg_fn=warmed_average(decay), use_buffers=True)


def warmed_average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """The update of an average whose decay rises as (1 + n) / (10 + n), so that early weights are forgotten."""

    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], num_averaged: Tensor | int) -> None:
        num = int(num_averaged)
        get_ema_multi_avg_fn(min(decay, (1 + num) / (10 + num)))(averaged, current, num)  # type: ignore[no-untyped-call]

    return update
