"""The tensors of a network as its file holds them: each once, also where several names stand for the same one.

Layers can be shared (one PReLU in two places), and weights tied (an embedding and a head). A file of safetensors holds
no tensor twice; which names are one tensor is known from the network, when it is built again.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def unique_tensors(state: Mapping[str, object]) -> dict[str, Tensor]:
    """A state dict without aliases: of several names of one tensor the first is kept.

    Args:
        state: of a network on any device, in any memory format.

    Returns:
        contiguous tensors on the CPU that share no memory, by name.

    Raises:
        TypeError: the state dict holds something else than tensors; says what.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
            kind = f"{value.layout} tensor" if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"its state dict holds a {kind} under {name!r}, which a file of weights cannot hold")
        tensors[name] = value.detach()
    kept: dict[tuple[object, ...], str] = {}
    for name, tensor in tensors.items():
        kept.setdefault(identity(tensor, name), name)
    # Views of one memory, of other shapes, are written separately.
    return {name: tensors[name].cpu().clone(memory_format=torch.contiguous_format) for name in kept.values()}


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load what `unique_tensors` gave, into all names of each tensor.

    Args:
        model: built as the one that was saved.
        tensors: by name; a name that is absent is taken from another name of the same tensor.

    Raises:
        RuntimeError: the tensors are of another network, as `load_state_dict` says.
    """
    names: dict[tuple[object, ...], list[str]] = {}
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor):
            names.setdefault(identity(tensor, name), []).append(name)
    state = dict(tensors)
    for aliases in names.values():
        found = next((name for name in aliases if name in tensors), None)
        if found is not None:
            state |= {name: tensors[found] for name in aliases if name not in tensors}
    model.load_state_dict(state)


def identity(tensor: Tensor, name: str) -> tuple[object, ...]:
    """What two names of one tensor have in common; tensors without elements or memory are their own.

    Args:
        tensor: of a state dict.
        name: in it.
    """
    if tensor.is_meta or tensor.numel() == 0:
        return (name,)
    return (tensor.device, tensor.dtype, tensor.data_ptr(), tensor.shape, tensor.stride())
