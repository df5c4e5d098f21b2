"""`cifar explain`: what a trained network looked at in an image."""

from pathlib import Path
from typing import Annotated

import typer

from cifar import show
from cifar.cli.app import Device, app
from cifar.errors import InputError


@app.command()
def explain(
    run: Annotated[Path, typer.Argument(help="A run's folder, or one that `cifar export` made.")],
    file: Annotated[Path, typer.Argument(help="An image file of any size.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The PNG to write; default NAME-explained.png here.")
    ] = None,
    class_name: Annotated[
        str, typer.Option("--class", help="The class to explain; default the likeliest. Not of transformers.")
    ] = "",
    device: Device = "",
) -> None:
    """A picture of what the network looked at: Grad-CAM for convolutional ones, attention rollout for transformers.

    A hint and no proof: what the method does not show stands under the picture.
    """
    from cifar.data.split import CLASSES
    from cifar.reporting.explanation import draw_explanation
    from cifar.serving.classifier import load_model
    from cifar.serving.explain import describe, explain, method_of
    from cifar.serving.images import read_image

    path = output or Path(f"{file.stem}-explained.png")
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the PNG file, such as --output {path / 'explained.png'}.")
    if class_name and class_name not in CLASSES:
        raise InputError(f"There is no class {class_name!r}: choose from {', '.join(CLASSES)}.")
    classifier = load_model(run, device=device)
    image = read_image(file)
    predictions = classifier.predict(image)
    label = CLASSES.index(class_name) if class_name else None
    heat = explain(classifier.network, image, label=label)
    answer, looked_at, text = describe(predictions, method_of(classifier.network), label=label)
    note = f"{classifier.trained_on}: KNOWS NEXT TO NOTHING" if classifier.trained_on.startswith("SAMPLE") else ""
    title = f"{file.name}, as {classifier.recipe.model} of the run {run.resolve().name} sees it"
    draw_explanation(image, heat, path, title=title, answer=answer, looked_at=looked_at, text=text, note=note)
    if note:
        show.say(note)
    if not heat.any():
        show.say("No place stands out: the map is the same everywhere.")
    show.result_text(f"{answer}; {path}")
