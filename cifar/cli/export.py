"""`cifar export`: a trained network for use elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cifar.cli import display
from cifar.cli.app import Data, TrustCode, app, open_data
from cifar.errors import InputError


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run's folder, or an exported one.")],
    file_format: Annotated[
        str, typer.Option("--format", help="onnx, or safetensors: a plain folder of weights and recipe.")
    ] = "onnx",
    output: Annotated[
        Path | None, typer.Option("--output", help="The .onnx file, or the folder; default in the run's folder.")
    ] = None,
    kind: Annotated[
        str, typer.Option("--input", help="Input of the ONNX file: float, pixels in [0, 1], or uint8, 0 to 255.")
    ] = "float",
    int8: Annotated[
        bool, typer.Option("--int8", help="Also an 8-bit ONNX file, calibrated and measured on validation images.")
    ] = False,
    data: Data = "",
    trust_code: TrustCode = False,
) -> None:
    """Write an ONNX file, checked against the network on 1,200 images, or a plain folder; export.json describes it.

    Normalisation is part of the file, test-time augmentation is not. --int8 reads the data that the run was trained on,
    but never its test split.
    """
    if file_format not in ("onnx", "safetensors"):
        raise InputError(f"There is no format {file_format!r}: choose onnx or safetensors.")
    if kind not in ("float", "uint8"):
        raise InputError(f"There is no input {kind!r}: choose float or uint8.")
    if file_format == "safetensors":
        if int8 or kind != "float":
            raise InputError("--int8 and --input need --format onnx.")
        write_folder(run, output, trust_code=trust_code)
    else:
        write_onnx(run, output, kind=kind, int8=int8, data=data, trust_code=trust_code)


def write_folder(run: Path, output: Path | None, *, trust_code: bool) -> None:
    """Write weights and recipe into a folder, made if it is absent."""
    from cifar.runs import EXPORTED, open_run, write_files
    from cifar.serving.export import export_folder

    target = output or run / EXPORTED
    files, record = export_folder(run, target, trust_code=trust_code)
    target.mkdir(parents=True, exist_ok=True)
    with open_run(target):
        write_files(target, files)
    display.result_text(
        f"{target}: {record['model']}, {record['bytes']:,} bytes of weights; load_model({str(target)!r})"
    )


def write_onnx(run: Path, output: Path | None, *, kind: str, int8: bool, data: str, trust_code: bool) -> None:
    """Write an ONNX file and, if wanted, its 8-bit version, with export.json beside them.

    Raises:
        InputError: a name that does not end in .onnx, a folder that does not exist, or no images for the 8-bit version.
    """
    from cifar.pipeline.job import data_to_reopen
    from cifar.runs import EXPORT, ONNX, remove_file, run_recipe, write_file
    from cifar.serving.export import export_int8, export_onnx, int8_splits, record_json

    run_recipe(run)
    path = output or run / ONNX
    if path.suffix != ".onnx":
        raise InputError(f"--output {path}: the name of an ONNX file must end in .onnx.")
    if not path.parent.is_dir():
        raise InputError(f"--output {path}: there is no folder {path.parent}.")
    splits = (
        int8_splits(run, open_data(data or data_to_reopen(run))) if int8 else None
    )  # refused before anything is written
    model, record = export_onnx(run, name=path.name, kind=kind, trust_code=trust_code)
    write_file(path, model)
    int8_path = path.with_name(f"{path.stem}-int8.onnx")
    remove_file(int8_path)  # of an earlier export: it would not belong to this file
    parity = record["parity"]
    display.result_text(
        f"{display.sample_prefix(record)}{path}: {record['model']}, {record['bytes']:,} bytes, takes "
        f"{record['input']}; on {parity['images']:,} images the same classes, probabilities within "
        f"{parity['largest_difference']:.1e}"
    )
    if record["recipe_views"] != "none":
        display.say(
            f"The recipe's test-time augmentation ({record['recipe_views']}) is not in the file: it sees an image once."
        )
    try:
        if splits:
            calibration, validation = splits
            int8_model, figures = export_int8(
                model, name=int8_path.name, calibration=calibration, validation=validation
            )
            write_file(int8_path, int8_model)
            record["int8"] = figures
            show_int8(record)
    finally:
        write_file(path.with_name(EXPORT), record_json(record))


def show_int8(record: Mapping[str, Any]) -> None:
    """Print accuracy, speed and size of both files side by side."""
    figures = record["int8"]
    fp32, int8 = figures["fp32"], figures["int8"]
    rows = [
        ("", "fp32", "int8"),
        ("validation accuracy", *(f"{file['accuracy']:.2%}" for file in (fp32, int8))),
        ("images/s, median", *(f"{file['images_per_second']:,.0f}" for file in (fp32, int8))),
        ("lowest", *(f"{file['lowest']:,.0f}" for file in (fp32, int8))),
        ("highest", *(f"{file['highest']:,.0f}" for file in (fp32, int8))),
        ("bytes", *(f"{file['bytes']:,}" for file in (fp32, int8))),
    ]
    for name, *cells in rows:
        display.result_text(f"{name:<20}" + "".join(f"{cell:>12}" for cell in cells))
    speedup = int8["images_per_second"] / fp32["images_per_second"]
    display.result_text(
        f"{display.sample_prefix(record)}{figures['file']} loses {100 * figures['accuracy_lost']:.2f} points on "
        f"{figures['validation_images']:,} validation images (the class of {figures['other_classes']:,} changes), "
        f"calibrated on {figures['calibration_images']:,} others, and is {speedup:.2f} times as fast here: medians of "
        f"{figures['rounds']} alternating measurements, batches of {figures['batch_size']}"
    )
