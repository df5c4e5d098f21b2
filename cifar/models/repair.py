"""Make `import torchvision` work where its compiled part does not fit the installed PyTorch.

With PyTorch's CPU build and the default build of torchvision (for CUDA), the compiled operators cannot be loaded and
the import fails with "operator torchvision::nms does not exist". Neither timm nor this package uses those operators, so
it is enough to declare them.
"""

import importlib
import sys

import torch

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

# The declarations live as long as this object; None until they are needed.
_declared: torch.library.Library | None = None


def repair_torchvision() -> None:
    """Import torchvision; if that fails for lack of operators, declare them and import it again.

    Calling a declared operator still fails, with PyTorch's message that it has no implementation.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: the import fails for another reason.
    """
    global _declared
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error) or _declared is not None:
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # partly imported
        _declared = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            _declared.define(f"{operator}{SIGNATURE}")  # type: ignore[no-untyped-call]
        importlib.import_module("torchvision")
