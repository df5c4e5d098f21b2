"""`cifar export`: a run to use elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cifar import show
from cifar.cli.app import Data, app, data_of, open_data
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
        str, typer.Option("--input", help="What the ONNX file takes: float, pixels in [0, 1], or uint8, 0 to 255.")
    ] = "float",
    int8: Annotated[
        bool, typer.Option("--int8", help="Also an 8-bit ONNX file, calibrated and measured on validation images.")
    ] = False,
    data: Data = "",
) -> None:
    """Write an ONNX file, checked against the network on 1,200 images, or a plain folder; export.json says what it is.

    Normalisation is inside the file, test-time views are not. For --int8 the run's own data are read, never its test
    split; default data are those that the run was trained on.
    """
    if file_format not in ("onnx", "safetensors"):
        raise InputError(f"There is no format {file_format!r}: choose onnx or safetensors.")
    if kind not in ("float", "uint8"):
        raise InputError(f"There is no input {kind!r}: choose float or uint8.")
    if file_format == "safetensors":
        if int8 or kind != "float":
            raise InputError("--int8 and --input go with --format onnx.")
        write_folder(run, output)
    else:
        write_onnx(run, output, kind=kind, int8=int8, data=data)


def write_folder(run: Path, output: Path | None) -> None:
    """Export weights and recipe."""
    from cifar.runs import EXPORTED
    from cifar.serving.export import export_folder

    target = output or run / EXPORTED
    record = export_folder(run, target)
    show.result_text(f"{target}: {record['model']}, {record['bytes']:,} bytes of weights; load_model({str(target)!r})")


def write_onnx(run: Path, output: Path | None, *, kind: str, int8: bool, data: str) -> None:
    """Export an ONNX file and, where asked, its 8-bit version; export.json is written beside them.

    Raises:
        InputError: a name that does not end in .onnx, or a folder that does not exist.
    """
    from cifar.files import write_json
    from cifar.runs import EXPORT, ONNX, run_recipe
    from cifar.serving.export import export_int8, export_onnx, held_images

    run_recipe(run)
    path = output or run / ONNX
    if path.suffix != ".onnx":
        raise InputError(f"--output {path}: the name of an ONNX file has to end in .onnx.")
    if not path.parent.is_dir():
        raise InputError(f"--output {path}: there is no folder {path.parent}.")
    held = None
    if int8:  # before anything is written
        held = held_images(run, open_data(data or data_of(run)))
    record = export_onnx(run, path, kind=kind)
    small_path = path.with_name(f"{path.stem}-int8.onnx")
    small_path.unlink(missing_ok=True)  # of a former export: it would not belong to this file
    parity = record["parity"]
    show.result_text(
        f"{show.sample_prefix(record)}{path}: {record['model']}, {record['bytes']:,} bytes, takes {record['input']}; "
        f"on {parity['images']:,} images the same classes, probabilities within {parity['largest_difference']:.1e}"
    )
    if record["recipe_views"] != "none":
        show.say(f"The recipe averages over the views {record['recipe_views']}, which are not in the file.")
    try:
        if held:
            record["int8"] = export_int8(path, small_path, held)
            show_int8(record)
    finally:
        write_json(path.with_name(EXPORT), record)


def show_int8(record: Mapping[str, Any]) -> None:
    """Print both files side by side."""
    figures = record["int8"]
    fp32, small = figures["fp32"], figures["int8"]
    rows = [
        ("", "fp32", "int8"),
        ("validation accuracy", *(f"{one['accuracy']:.2%}" for one in (fp32, small))),
        ("images/s, median", *(f"{one['images_per_second']:,.0f}" for one in (fp32, small))),
        ("lowest", *(f"{one['lowest']:,.0f}" for one in (fp32, small))),
        ("highest", *(f"{one['highest']:,.0f}" for one in (fp32, small))),
        ("bytes", *(f"{one['bytes']:,}" for one in (fp32, small))),
    ]
    for name, *cells in rows:
        show.result_text(f"{name:<20}" + "".join(f"{cell:>12}" for cell in cells))
    ratio = small["images_per_second"] / fp32["images_per_second"]
    show.result_text(
        f"{show.sample_prefix(record)}{figures['file']} loses {100 * figures['accuracy_lost']:.2f} points on "
        f"{figures['validation_images']:,} validation images ({figures['other_classes']:,} get another class), "
        f"calibrated on {figures['calibration_images']:,} others, and is {ratio:.2f} times as fast here: medians of "
        f"{figures['rounds']} rounds in turn, batches of {figures['batch_size']}"
    )
