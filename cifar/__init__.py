"""Train, test, understand and use an image classifier on CIFAR-10.

    run = cifar.train("resnet", epochs=3, data="sample")
    run.load().predict("cat.jpg").names

Everything in `__all__` is documented in `cifar.api`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cifar.api import Run, compare, list_models, list_recipes, load_data, load_model, recipe, resume, train

__version__ = "0.2.0"
__all__ = [
    "Run", "__version__", "compare", "list_models", "list_recipes", "load_data", "load_model", "recipe", "resume",
    "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: `import cifar` alone imports neither this nor PyTorch."""
    if name not in __all__:
        raise AttributeError(f"module 'cifar' has no attribute {name!r}")
    return getattr(importlib.import_module("cifar.api"), name)


def __dir__() -> list[str]:
    return __all__
