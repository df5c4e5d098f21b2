"""What a network can do only in its own way, as hooks, which leave the names of its weights alone.

Pixels come in channels-last memory and belong to the caller, and logits are one tensor, unless a hook says otherwise.
"""

from typing import Any

import torch
from torch import nn


def make_contiguous(_network: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Hook before a network: pixels in contiguous memory, for those that call `view` on them."""
    return (inputs[0].contiguous(), *inputs[1:])


def clone_pixels(_network: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Hook before a network: pixels of its own, for those that change them in place."""
    return (inputs[0].clone(), *inputs[1:])


def main_logits(_network: nn.Module, _inputs: object, output: Any) -> Any:
    """Hook behind a network: the first output of those that give several in training."""
    return output[0] if isinstance(output, tuple | list) else output


def memory_format_of(model: nn.Module) -> torch.memory_format:
    """The memory format of a network's filters: channels last, unless it needs contiguous pixels."""
    needs_contiguous = make_contiguous in model._forward_pre_hooks.values()
    return torch.contiguous_format if needs_contiguous else torch.channels_last


def place(model: nn.Module, device: str | torch.device | None = None) -> None:
    """Move a network to a device, in the memory format that it takes.

    Args:
        model: of `build_model`.
        device: cpu, mps or cuda; None is where it is.
    """
    model.to(device=device, memory_format=memory_format_of(model))  # type: ignore[call-overload]
