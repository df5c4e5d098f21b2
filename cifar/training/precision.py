"""Fabric with the arithmetic that a recipe asks for and the device has."""

from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision

from cifar.machine import choose_precision


class PixelsInFull(MixedPrecision):
    """Autocast alone. Fabric's own also rounds what goes into the network: in bf16 by up to half a grey level of the
    pixels, and a processor cannot resize those."""

    def convert_input(self, data: Any) -> Any:
        """Hand the pixels on as they are."""
        return data


def open_fabric(wanted: str, *, device: str) -> tuple[Fabric, str]:
    """Fabric on one device, and a sentence where the precision is not what was asked ("" else).

    Args:
        wanted: a recipe's precision.
        device: cpu, mps or cuda.
    """
    precision, remark = choose_precision(wanted, device=device)
    if precision == "32-true":
        return Fabric(accelerator=device, devices=1, precision=precision), remark
    return Fabric(accelerator=device, devices=1, plugins=[PixelsInFull(precision, device)]), remark
