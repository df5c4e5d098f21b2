"""The demo's page: its layout, and what happens to an image that it gets."""

import html
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr
from torch import Tensor

from cifar.data.split import CLASSES
from cifar.errors import InputError, WorldError
from cifar.reporting.markdown import escape
from cifar.serving.answers import DemoRun, class_probs, explanation
from cifar.serving.images import read_image
from cifar.serving.limits import CONCURRENCY, KEPT_SECONDS, MAX_BYTES, MAX_MEMORY, MAX_WAITING

NAME = "predict"  # of the endpoint
SHOWN = 3  # classes

# Without it, 32×32 pixels are a speck, and the examples push the prediction off the screen of a phone.
CSS = """
#image img { width: 100%; height: 100%; object-fit: contain; }
.gallery-item .container.gallery { width: 3.3rem; height: 3.3rem; }
"""


def build_page(
    runs: Sequence[DemoRun], *, examples: Sequence[Path], folders: Sequence[Path], address: str
) -> gr.Blocks:
    """The page, not yet served.

    Args:
        runs: one or two.
        examples: image files.
        folders: of uploads and examples, resolved.
        address: where it will be served, with a slash at the end.
    """
    with gr.Blocks(title="cifar", analytics_enabled=False) as page:
        gr.Markdown(introduction(runs))
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                image = gr.Image(
                    label="Image", height=300, type="filepath", image_mode=None, buttons=[], elem_id="image",
                    sources=["upload", "webcam", "clipboard"],
                )  # fmt: skip
                guard(image, folders)
            with gr.Column(scale=3 * len(runs), min_width=300), gr.Row():
                fields = [result_fields(run, number) for number, run in enumerate(runs)]
        thumbnails = gr.Dataset(
            components=[image], samples=[[str(path)] for path in examples], type="index",
            samples_per_page=len(examples),
            label="Examples: training images, which the network may have memorised",
        )  # fmt: skip
        # gr.Examples would load them outside the queue, from an address that the wall refuses.
        thumbnails.click(
            lambda number: str(examples[number]), thumbnails, image, api_visibility="private",
            show_progress="hidden",
        )  # fmt: skip
        for run in runs:
            with gr.Accordion(f"Model card: {run.name}", open=False):
                gr.Markdown(run.card)
        with gr.Accordion("From a program", open=False):
            gr.Markdown(for_programs(address, names=[run.name for run in runs]))
        top_bars, bars, pictures, words = map(list, zip(*fields, strict=True))
        shown = [*top_bars, *bars, *pictures, *words]
        # First the former answer goes, which would stay beside an image that is refused.
        gr.on(
            [image.change], lambda: [None] * len(shown), None, shown, api_visibility="private", show_progress="hidden",
        ).then(
            prediction_function(runs), image, bars, api_name=NAME, show_progress="minimal",
            concurrency_id="networks", concurrency_limit=CONCURRENCY,
            api_description="Probabilities of the ten classes.",
        ).then(
            same_values, bars, top_bars, api_visibility="private", show_progress="hidden",
        ).then(
            explanation_function(runs), image, pictures + words, api_visibility="private", show_progress="hidden",
            concurrency_id="networks",
        )  # fmt: skip
    keep_quiet(page)
    return page.queue(max_size=MAX_WAITING, default_concurrency_limit=CONCURRENCY)


def result_fields(run: DemoRun, number: int) -> tuple[gr.Label, gr.Label, gr.Image, gr.Markdown]:
    """A column for a run: its top three classes, all ten folded, the picture of what it looked at, words."""
    with gr.Column(min_width=280):
        top_bars = gr.Label(label=run.name, num_top_classes=SHOWN, elem_id=f"top-{number}")
        with gr.Accordion("All ten classes", open=False, elem_id=f"all-{number}"):
            bars = gr.Label(label=run.name, num_top_classes=len(CLASSES), elem_id=f"bars-{number}")
        return (
            top_bars,
            bars,
            gr.Image(
                label="What it looked at", format="png", interactive=False, buttons=["fullscreen"],
                elem_id=f"picture-{number}",
            ),
            gr.Markdown(elem_id=f"words-{number}"),
        )  # fmt: skip


def same_values(*values: Any) -> Any:
    """What it is given, as Gradio wants it: no tuple for a single output."""
    return values[0] if len(values) == 1 else values


def guard(field: gr.Image, folders: Sequence[Path]) -> None:
    """Make Gradio's image field return the path of the uploaded or chosen file, unopened, and nothing else.

    Left alone it fetches URLs, and opens files of any size, in formats that start other programs. Its methods are
    replaced in this one object, because Gradio writes a file next to every subclass of its own.

    Args:
        field: the image field.
        folders: of its files, resolved; no other file is read, whatever path a request names.
    """

    def own_file(name: str | Path) -> str:
        path = Path(name).resolve()
        if not any(path.is_relative_to(folder) for folder in folders) or not path.is_file():
            raise refusal("Only images that were uploaded here are read: no URLs, and no other files.")
        return str(path)

    async def keep(url_or_file_path: str | Path | None) -> str | None:
        return None if url_or_file_path is None else own_file(url_or_file_path)

    def preprocess(payload: Any) -> str | None:
        if payload is None:
            return None
        if not payload.path:
            raise refusal("Upload the image first, and give the path that the upload returned.")
        return own_file(payload.path)

    field.async_move_resource_to_block_cache = keep
    field.preprocess = preprocess


def keep_quiet(page: gr.Blocks) -> None:
    """Answer requests that Gradio cannot process with a sentence: it prints a traceback for each."""
    process = page.process_api

    async def process_quietly(*arguments: Any, **options: Any) -> Any:
        try:
            return await process(*arguments, **options)
        except Exception as error:
            if isinstance(error, gr.Error):
                error.print_exception = False
                raise
            raise refusal("The demo cannot answer this request: upload an image and give its path.") from None

    page.process_api = process_quietly


def prediction_function(runs: Sequence[DemoRun]) -> Callable[[str | None], Any]:
    """The function of the endpoint: path of an image → {class: probability} for each run; None without an image."""

    def predictions(image: str | None) -> Any:  # Gradio publishes the parameter's name
        pixels = None if image is None else read_upload(image)
        try:
            probs = [None if pixels is None else class_probs(pixels, run) for run in runs]
        except WorldError as error:  # a network that gives no numbers for this image
            raise refusal(str(error)) from None
        return probs[0] if len(probs) == 1 else probs  # Gradio wants no list for a single output

    return predictions


def explanation_function(runs: Sequence[DemoRun]) -> Callable[[str | None], list[Any]]:
    """The function of the pictures: path of an image → a picture for each run, then the words for each.

    They are blank without an image, or for a file that the endpoint has refused.
    """

    def explanations(path: str | None) -> list[Any]:
        pairs: list[Any] = [(None, "")] * len(runs)
        with suppress(gr.Error):
            if path is not None:
                image = read_upload(path)
                pairs = [explanation(image, run) for run in runs]
        return [picture for picture, _ in pairs] + [words for _, words in pairs]

    return explanations


def read_upload(path: str) -> Tensor:
    """An uploaded image as the networks take it, uint8 [3, 32, 32].

    Raises:
        gr.Error: it is not an image, damaged or too large; the sentence does not name the server's path.
    """
    try:
        with Path(path).open("rb") as file:
            return read_image(file)
    except (InputError, WorldError) as error:
        raise refusal(str(error)[:1].upper() + str(error)[1:]) from None
    except OSError:
        raise refusal("The uploaded file was deleted: upload the image again.") from None


def refusal(sentence: str) -> gr.Error:
    """The error that the page shows until it is closed, and that the endpoint returns."""
    return gr.Error(html.escape(sentence, quote=False), title="Not classified", duration=None, print_exception=False)


def introduction(runs: Sequence[DemoRun]) -> str:
    """The text at the top of the page, in Markdown."""
    lines = [
        "# cifar",
        f"Which of ten classes is it: {', '.join(CLASSES[:-1])} or {CLASSES[-1]}? An image of any size is cropped to "
        "its central square and resized to 32×32 pixels. Any other object will be misclassified, however confident "
        "the answer looks.",
    ]
    if any(run.classifier.temperatures.get(run.classifier.recipe.tta.views) for run in runs):
        lines.append("Probabilities are calibrated: at a temperature that was fitted on validation images.")
    lines += [f"**{escape(run.warning)}**" for run in runs if run.warning]
    return "\n\n".join(lines)


def for_programs(address: str, *, names: Sequence[str]) -> str:
    """How to call the endpoint, in Markdown."""
    order = (
        ""
        if len(names) == 1
        else f" It holds a prediction of each run, in the order {' and '.join(map(escape, names))}."
    )
    return f"""Upload a file, request its classes, read the response (an event stream, whose line `data:` is JSON):

```bash
{curl_lines(address)}
```
{order}
At most {MAX_BYTES / 2**20:.0f} MB per image, {MAX_MEMORY // 10**6} MB when it is decoded; {MAX_WAITING} requests \
waiting and {CONCURRENCY} at a time; further ones are refused with 503. Uploads are deleted after \
{KEPT_SECONDS // 60} minutes and when the demo ends. Nothing is sent anywhere else.
"""


def curl_lines(address: str) -> str:
    """Shell commands that call the endpoint at the page's address."""
    return f"""\
FILE=$(curl -sF files=@cat.png {address}gradio_api/upload | cut -d'"' -f2)
EVENT=$(curl -s {address}gradio_api/call/{NAME} -H 'Content-Type: application/json' \\
  -d '{{"data": [{{"path": "'"$FILE"'"}}]}}' | cut -d'"' -f4)
curl -sN {address}gradio_api/call/{NAME}/$EVENT"""
