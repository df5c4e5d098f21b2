"""Make `import torchvision` work where its compiled part does not fit the installed PyTorch.

With PyTorch's CPU build and the default build of torchvision (for CUDA), the compiled operators cannot be loaded and
the import fails with "operator torchvision::nms does not exist". Neither timm nor this package uses those operators, so
it is enough to declare them.
"""

import importlib.util
import sys
from contextlib import suppress
from pathlib import Path

import torch

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

# The declarations live as long as this object; None until they are needed.
_declared: torch.library.Library | None = None


def repair_torchvision() -> None:
    """Load torchvision's compiled operators, or declare them where they cannot be loaded; torchvision is not imported.

    Calling a declared operator still fails, with PyTorch's message that it has no implementation.
    """
    global _declared
    spec = None if "torchvision" in sys.modules else importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return
    for library in sorted(Path(spec.submodule_search_locations[0]).glob("_C.*")):
        with suppress(OSError, ImportError):
            torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    if _declared is None and not hasattr(torch.ops.torchvision, "nms"):
        _declared = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            _declared.define(f"{operator}{SIGNATURE}")  # type: ignore[no-untyped-call]
