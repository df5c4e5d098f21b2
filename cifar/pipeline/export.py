"""A trained network written for use elsewhere: an ONNX file, also in 8 bits, or a plain folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cifar.data.cifar10 import Dataset
from cifar.errors import InputError
from cifar.runs import EXPORT, EXPORTED, ONNX, open_run, remove_file, run_recipe, write_file, write_files
from cifar.serving.export import export_folder, export_int8, export_onnx, int8_splits, record_json


def write_folder(run: Path, target: Path | None, *, trust_code: bool = False) -> tuple[Path, dict[str, Any]]:
    """Write weights and recipe into a folder that `load_model` reads, made if it is absent.

    Args:
        run: a run's folder, or an exported one.
        target: the folder; None is "exported" in the run's.
        trust_code: import and run the user's function, if the recipe names one.

    Returns:
        the folder, and what its export.json holds.

    Raises:
        InputError, WorldError: as `export_folder`.
    """
    target = target or run / EXPORTED
    files, record = export_folder(run, target, trust_code=trust_code)
    target.mkdir(parents=True, exist_ok=True)
    with open_run(target):
        write_files(target, files)
    return target, record


def write_onnx(
    run: Path,
    path: Path | None,
    *,
    kind: str = "float",
    calibrated: bool = True,
    opset: int = 0,
    open_data: Callable[[], Dataset] | None = None,
    trust_code: bool = False,
    announce: Callable[[Path, Mapping[str, Any]], None] = lambda _path, _record: None,
) -> tuple[Path, dict[str, Any]]:
    """Write an ONNX file and, if wanted, its 8-bit version, with export.json beside them.

    Args:
        run: a run's folder, or an exported one.
        path: the .onnx file; None is model.onnx in the run's folder.
        kind: "float", pixels in [0, 1], or "uint8", 0 to 255.
        calibrated, opset: as of `export_onnx`.
        open_data: opens what the run was trained on, for the 8-bit version; None makes none.
        trust_code: as of `write_folder`.
        announce: gets the file and its record before the 8-bit version is begun, which takes minutes.

    Returns:
        the file, and what export.json holds.

    Raises:
        InputError: a name that does not end in .onnx, a folder that does not exist, or no images for the 8-bit version.
        WorldError: as `export_onnx` and `export_int8`.
    """
    run_recipe(run)
    path = path or run / ONNX
    if path.suffix != ".onnx":
        raise InputError(f"--output {path}: the name of an ONNX file must end in .onnx.")
    if not path.parent.is_dir():
        raise InputError(f"--output {path}: there is no folder {path.parent}.")
    splits = int8_splits(run, open_data()) if open_data else None  # refused before anything is written
    model, record = export_onnx(
        run, name=path.name, kind=kind, calibrated=calibrated, opset=opset, trust_code=trust_code
    )
    write_file(path, model)
    int8_path = path.with_name(f"{path.stem}-int8.onnx")
    remove_file(int8_path)  # of an earlier export: it would not belong to this file
    try:
        announce(path, record)
        if splits:
            calibration, validation = splits
            int8_model, figures = export_int8(
                model, name=int8_path.name, calibration=calibration, validation=validation
            )
            write_file(int8_path, int8_model)
            record["int8"] = figures
    finally:
        write_file(path.with_name(EXPORT), record_json(record))
    return path, record
