"""A CUDA graph's behaviour without a GPU: operations recorded once, repeated on the same memory with the same numbers.

As with `torch.cuda.graph`, recording changes nothing that was there before, and a replay sees neither Python nor the
shapes that other values would give: what Python computed of a step (a rate, a number of a batch) is repeated as it was.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Recording(TorchDispatchMode):
    """Keeps every operation that runs within it, with its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, outputs))
        return outputs

    def work(self) -> list[tuple[Any, Any, Any, Any]]:
        """The operations but for views, which a graph does not have."""
        return [call for call in self.calls if call[0]._schema.is_mutable or not shared(call[1:3], call[3])]

    @torch.no_grad()
    def replay(self) -> None:
        """Run the operations again; each writes where it wrote before."""
        for func, args, kwargs, outputs in self.work():
            news = func(*args, **kwargs)
            if not func._schema.is_mutable:
                for ours, new in zip(tensors(outputs), tensors(news), strict=True):
                    ours.copy_(new)


def shared(inputs: Any, outputs: Any) -> bool:
    """Whether an output lies in the memory of an input."""
    places = {one.untyped_storage().data_ptr() for one in tensors(inputs)}
    return any(one.untyped_storage().data_ptr() in places for one in tensors(outputs))


def tensors(*values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def recorder(kept: Callable[[], Iterable[Tensor]]) -> Callable[..., Callable[[], None]]:
    """What stands in for `cifar.training.capture.captured`.

    Args:
        kept: tensors that outlive a step: weights, buffers, momentum, sums.
    """

    def captured(step: Callable[[], None], _stream: object) -> Callable[[], None]:
        before = [(one, one.detach().clone()) for one in kept()]
        recording = Recording()
        with torch.random.fork_rng(devices=()), recording:
            step()
        with torch.no_grad():
            for one, value in before:
                one.copy_(value)
        return recording.replay

    return captured
