"""An exponential moving average of the weights, which is validated and saved in their place."""

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._foreach_utils import _group_tensors_by_device_and_dtype


class MovingAverage(AveragedModel):
    """PyTorch's averaged network, in which only floating-point tensors are averaged; all others are copied.

    Averages of integers would be truncated: an index that does not change at all would drift to zero.

    Args:
        model: on its device.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, use_buffers=True)
        tensors = tensors_of(self.module)
        self.shares_memory = len({tensor.untyped_storage().data_ptr() for tensor in tensors}) < len(tensors)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module, weight: Tensor | float) -> None:  # type: ignore[override]
        """Take the weights and buffers of the network after a step into the average.

        Args:
            model: with the tensors that the average was made of.
            weight: of this step, as of `averaging_weight`; a tensor without dimensions lies on the network's device.
        """
        pairs: Any = [tensors_of(self.module), tensors_of(model)]
        groups: Any = _group_tensors_by_device_and_dtype(pairs)
        for (_, dtype), ((averages, values), _) in groups.items():
            if (dtype.is_floating_point or dtype.is_complex) and not (isinstance(weight, float) and weight == 1):
                if not self.shares_memory:
                    lerp_(averages, values, weight)
                    continue
                moved = [average.clone() for average in averages]  # else shared memory would be averaged several times
                lerp_(moved, values, weight)
                values = moved
            torch._foreach_copy_(averages, values)


def lerp_(averages: Any, values: Any, weight: Tensor | float) -> None:
    """Move averages towards values, in place; PyTorch has it for a tensor's weight only with one kernel a tensor.

    Args:
        averages, values: tensors of one type on one device.
        weight: of the values, 0 to 1.
    """
    if isinstance(weight, Tensor):
        differences: Any = torch._foreach_sub(values, averages)
        torch._foreach_mul_(differences, weight)
        torch._foreach_add_(averages, differences)
    else:
        torch._foreach_lerp_(averages, values, weight)


def tensors_of(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers of a network, those that are not saved included, each once."""
    return [tensor.detach() for tensor in chain(model.parameters(), model.buffers())]


def averaging_weight(decay: float, step: int) -> float:
    """The weight of a step in the average: its decay rises as (1 + n) / (10 + n), so that early weights are forgotten.

    Args:
        decay: that it rises to.
        step: n, steps before it in the training; the first one is the average.
    """
    return 1 - min(decay, (1 + step) / (10 + step)) if step else 1.0
