"""Make `import torchvision` work where its compiled part does not fit the installed torch.

With PyTorch's own CPU build and the usual torchvision (built for CUDA), the compiled operators cannot be loaded and
the import itself dies with "operator torchvision::nms does not exist". Neither timm nor we use those operators: it is
enough that they are declared.
"""

import importlib
import sys

import torch

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

# Declarations last as long as this object; None until they were needed.
_declared: torch.library.Library | None = None


def repair_torchvision() -> None:
    """Import torchvision, declaring its missing operators first if it cannot be imported without; else change nothing.

    Calling a declared operator still fails, with torch's message that it has no implementation.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: it fails for another reason.
    """
    global _declared
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error) or _declared is not None:
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # half imported
        _declared = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            _declared.define(f"{operator}{SIGNATURE}")  # type: ignore[no-untyped-call]
        importlib.import_module("torchvision")
