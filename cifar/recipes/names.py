"""The networks by name. Here and not with the networks, so that a typo is refused without waiting for PyTorch."""

import difflib
from collections.abc import Iterable

from cifar.errors import InputError

MODELS = (
    "cnn", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet18", "vit", "vit-patch", "vit-tiny",
    "vit-medium", "vit-large", "speednet", "speednet-narrow", "speednet-large", "previt",
)  # fmt: skip


def check_name(name: str, *, also: Iterable[str] = ()) -> None:
    """Refuse a name that no network has; what stands behind a colon is looked up when it is built.

    Args:
        name: of a network, "timm:NAME" or "package.module:function".
        also: further names that are valid where this one was typed, such as those of recipes.

    Raises:
        InputError: lists the valid names and the nearest one.
    """
    valid = list(dict.fromkeys([*also, *MODELS]))
    if name in valid or all(name.partition(":")):
        return
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise InputError(
        f"There is no model {name!r}.{hint} Choose from {', '.join(valid)}, timm:NAME or package.module:function."
    )


def is_own(name: str) -> bool:
    """Whether a network's name stands for a function of the user's."""
    return ":" in name and not name.startswith("timm:")
