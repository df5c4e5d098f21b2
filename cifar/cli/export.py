"""`cifar export`: a trained network for use elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cifar.cli import display
from cifar.cli.app import Data, TrustCode, app, open_data
from cifar.errors import InputError


@app.command(rich_help_panel="Share")
def export(
    run: Annotated[Path, typer.Argument(help="A run's folder, or an exported one.")],
    file_format: Annotated[
        str, typer.Option("--format", help="onnx, or safetensors: a plain folder of weights and recipe.")
    ] = "onnx",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The .onnx file, or the folder; default in the run's folder.")
    ] = None,
    kind: Annotated[
        str, typer.Option("--input", help="Input of the ONNX file: float, pixels in [0, 1], or uint8, 0 to 255.")
    ] = "float",
    int8: Annotated[
        bool, typer.Option("--int8", help="Also an 8-bit ONNX file, calibrated and measured on validation images.")
    ] = False,
    opset: Annotated[
        int | None, typer.Option("--opset", min=9, help="ONNX's operator set, lower for older runtimes; default 20.")
    ] = None,
    uncalibrated: Annotated[
        bool, typer.Option("--uncalibrated", help="The network's own probabilities, not at the fitted temperature.")
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
    from cifar.pipeline.export import write_folder, write_onnx
    from cifar.pipeline.job import data_to_reopen

    if file_format == "safetensors":
        if int8 or uncalibrated or kind != "float" or opset:
            raise InputError("--int8, --input, --opset and --uncalibrated need --format onnx.")
        target, record = write_folder(run, output, trust_code=trust_code)
        display.result_text(
            f"{target}: {record['model']}, {record['bytes']:,} bytes of weights; load_model({str(target)!r})"
        )
        return
    open_it = (lambda: open_data(data or data_to_reopen(run))) if int8 else None
    _, record = write_onnx(
        run,
        output,
        kind=kind,
        calibrated=not uncalibrated,
        opset=opset or 0,
        open_data=open_it,
        trust_code=trust_code,
        announce=show_onnx,
    )
    if int8:
        show_int8(record)


def show_onnx(path: Path, record: Mapping[str, Any]) -> None:
    """Print what an ONNX file is, and that it was checked."""
    parity = record["parity"]
    display.result_text(
        f"{display.sample_prefix(record)}{path}: {record['model']}, {record['bytes']:,} bytes, takes "
        f"{record['input']}; on {parity['images']:,} images the same classes, probabilities within "
        f"{parity['largest_difference']:.1e}"
    )
    if record["temperature"] != 1:
        display.say(
            f"Its probabilities are calibrated: at temperature {record['temperature']:.3f}, fitted on validation "
            "images; --uncalibrated gives the network's own."
        )
    if record["recipe_views"] != "none":
        display.say(
            f"The recipe's test-time augmentation ({record['recipe_views']}) is not in the file: it sees an image once."
        )


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
