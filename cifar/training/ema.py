"""An exponential moving average of the weights, which is validated and saved in their place."""

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._foreach_utils import _group_tensors_by_device_and_dtype


class MovingAverage(AveragedModel):
    """PyTorch's averaged network, in which only floating-point tensors are averaged; all others are copied.

    Averages of integers would be truncated: an index that does not change at all would drift to zero. The number of
    steps so far stays on the host, so that no step waits for the device.

    Args:
        model: on its device.
        decay: per step, once it has warmed up.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self.decay = decay
        tensors = tensors_of(self.module)
        self.shares_memory = len({tensor.untyped_storage().data_ptr() for tensor in tensors}) < len(tensors)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the weights and buffers of the network after a step into the average; the first time they are it."""
        num_averaged = int(self.n_averaged)
        pairs: Any = [tensors_of(self.module), tensors_of(model)]
        groups: Any = _group_tensors_by_device_and_dtype(pairs)
        for (_, dtype), ((averages, values), _) in groups.items():
            if num_averaged and (dtype.is_floating_point or dtype.is_complex):
                weight = 1 - warmed_decay(self.decay, num_averaged)
                if self.shares_memory:  # in place, what several tensors hold would be averaged several times
                    values = torch._foreach_lerp(averages, values, weight)
                else:
                    torch._foreach_lerp_(averages, values, weight)
                    continue
            torch._foreach_copy_(averages, values)
        self.n_averaged += 1


def tensors_of(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers of a network, those that are not saved included, each once."""
    return [tensor.detach() for tensor in chain(model.parameters(), model.buffers())]


def warmed_decay(decay: float, num_averaged: int) -> float:
    """The decay of a step, which rises as (1 + n) / (10 + n), so that early weights are forgotten.

    Args:
        decay: that it rises to.
        num_averaged: n, steps that are in the average.
    """
    return min(decay, (1 + num_averaged) / (10 + num_averaged))
