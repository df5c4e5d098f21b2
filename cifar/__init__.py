"""Train, test, understand and use an image classifier on CIFAR-10."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from cifar.serving.classifier import Classifier

__version__ = "0.1.0"
__all__ = ["__version__", "load_model"]


def load_model(run: "str | Path", *, device: str = "", trust_code: bool = False) -> "Classifier":
    """The trained network of a run, to use: `load_model("runs/mine").predict(images).names`.

    Args:
        run: a run's folder, or one that `cifar export --format safetensors` made.
        device: cpu, mps or cuda; "" is the best present.
        trust_code: import and run the network's own code, where the run was trained with `-m package.module:function`.

    Returns:
        a `cifar.serving.classifier.Classifier`, whose `predict` takes paths, pictures of Pillow, arrays and tensors.

    Raises:
        cifar.errors.InputError: no such folder, the folder of a cross-validation, a device that is absent, or
            code that is not trusted.
        cifar.errors.WorldError: the weights are absent, damaged or of another network.
    """
    from cifar.serving.classifier import load_model  # imports torch, which `import cifar` alone does not

    return load_model(run, device=device, trust_code=trust_code)
