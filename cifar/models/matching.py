"""Weights of a file into a network by their names: all of them but a head of another number of classes."""

import warnings
from collections.abc import Mapping

from torch import Tensor, nn

from cifar.errors import InputError, Remark
from cifar.models.state_dict import load_tensors


def load_matching(model: nn.Module, tensors: Mapping[str, Tensor], *, name: str, origin: str) -> None:
    """Load weights into a network of this package or of the user's; a head of another size stays new, and is said.

    Args:
        model: with a head of 10 classes.
        tensors: by name.
        name: of the network, for errors.
        origin: of the weights, for errors.

    Raises:
        InputError: the weights are of another network; names the first tensors that do not fit.
    """
    own = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    if own.keys().isdisjoint(tensors) and all(key.startswith("model.") for key in tensors):  # of Lightning's modules
        tensors = {key.removeprefix("model."): value for key, value in tensors.items()}
    tensors = {key: value for key, value in tensors.items() if key in own or not key.endswith("num_batches_tracked")}
    head = {key for key in own.keys() & tensors.keys() if is_head(own[key], tensors[key])}
    aliases = {value.data_ptr() for key, value in own.items() if key in tensors}
    complain(
        [
            *(
                f"{key} is missing" for key, value in own.items()
                if key not in tensors and value.data_ptr() not in aliases and not key.endswith("num_batches_tracked")
            ),
            *(f"{key} is unknown" for key in tensors if key not in own),
            *(
                f"{key} is {list(tensors[key].shape)} instead of {list(value.shape)}"
                for key, value in own.items()
                if key in tensors and key not in head and tensors[key].shape != value.shape
            ),
        ],
        name=name, origin=origin,
    )  # fmt: skip
    if head:
        warnings.warn(
            f"{origin} is of another number of classes: {' and '.join(sorted(head))} of {name} start at random.",
            Remark, stacklevel=2,
        )  # fmt: skip
    new = {key: own[key] for key in own if key in head or key.endswith("num_batches_tracked")}
    load_tensors(model, new | {key: value for key, value in tensors.items() if key not in head})


def is_head(own: Tensor, other: Tensor) -> bool:
    """Whether a tensor belongs to a head of 10 classes and the other one to a head of another number of them."""
    return own.ndim > 0 and other.ndim == own.ndim and own.shape[0] == 10 != other.shape[0] and (
        own.shape[1:] == other.shape[1:]
    )  # fmt: skip


def complain(complaints: list[str], *, name: str, origin: str) -> None:
    """Raise InputError with the first three of the complaints about weights, if there are any.

    Args:
        complaints: each about a tensor.
        name: of the network.
        origin: of the weights.
    """
    if complaints:
        more = f" and {len(complaints) - 3} more" if len(complaints) > 3 else ""
        raise InputError(f"{origin} does not fit {name}: {'; '.join(complaints[:3])}{more}.")
