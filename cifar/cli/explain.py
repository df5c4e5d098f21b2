"""`cifar explain`: what a trained network looks at in an image."""

from pathlib import Path
from typing import Annotated

import typer

from cifar.cli import display
from cifar.cli.app import Device, TrustCode, app
from cifar.errors import InputError


@app.command(rich_help_panel="Understand")
def explain(
    run: Annotated[
        Path,
        typer.Argument(
            help="A run's folder, an exported one, a recorded run such as resnet, or owner/name on the hub."
        ),
    ],
    file: Annotated[Path, typer.Argument(help="An image file of any size.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The PNG to write; default NAME-explained.png here.")
    ] = None,
    class_name: Annotated[
        str, typer.Option("--class", help="The class to explain; default the most likely. Not for transformers.")
    ] = "",
    device: Device = "",
    trust_code: TrustCode = False,
) -> None:
    """Draw what the network looks at: Grad-CAM for convolutional networks, attention rollout for transformers.

    It is a hint, not proof: the text under the picture says what the method does not show.
    """
    from cifar.data.split import CLASSES
    from cifar.runs import write_file
    from cifar.serving.classifier import load_model
    from cifar.serving.explain import explain_image

    path = output or Path(f"{file.stem}-explained.png")
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the PNG file, such as --output {path / 'explained.png'}.")
    if class_name and class_name not in CLASSES:
        raise InputError(f"There is no class {class_name!r}: choose from {', '.join(CLASSES)}.")
    classifier = load_model(run, device=device, trust_code=trust_code)
    title = display.printable(f"{file.name}, as {classifier.recipe.model} of the run {run.resolve().name} sees it")
    explanation = explain_image(classifier, file, class_name=class_name, title=title)
    write_file(path, explanation.png())
    if classifier.note:
        display.say(classifier.note)
    if not explanation.heat.any():
        display.say("The map is the same everywhere: the method shows nothing.")
    display.result_text(f"{explanation.answer}; {path}")
