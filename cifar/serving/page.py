"""The demo's page: what is on it, and what becomes of an image that is given to it."""

import html
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr
from torch import Tensor

from cifar.data.split import CLASSES
from cifar.errors import InputError, WorldError
from cifar.serving.answers import Shown, class_probs, looked_at
from cifar.serving.images import MOST_PIXELS, read_image
from cifar.serving.limits import AT_ONCE, KEPT_SECONDS, MOST_BYTES, MOST_WAITING

NAME = "predict"  # of the endpoint


# Else 32×32 pixels are a speck, and the examples push the answer off a phone.
CSS = """
#image img { width: 100%; height: 100%; object-fit: contain; }
.gallery-item .container.gallery { width: 3.3rem; height: 3.3rem; }
"""


def build_page(shown: Sequence[Shown], *, examples: Sequence[Path], folders: Sequence[Path], address: str) -> gr.Blocks:
    """The page, not yet served.

    Args:
        shown: one run or two.
        examples: image files.
        folders: where uploads and examples lie, resolved.
        address: where it will be served, with a slash at the end.
    """
    with gr.Blocks(title="cifar", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS)) as page:
        gr.Markdown(introduction(shown))
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                image = gr.Image(
                    label="Image", height=300, type="filepath", image_mode=None, buttons=[], elem_id="image",
                    sources=["upload", "webcam", "clipboard"],
                )  # fmt: skip
                guard(image, folders)
                thumbnails = gr.Dataset(
                    components=[image], samples=[[str(path)] for path in examples], type="index",
                    samples_per_page=len(examples),
                    label="Examples, from the training images, which it may know by heart",
                )  # fmt: skip
                # gr.Examples would have them loaded past the queue, by an address that the wall does not let through.
                thumbnails.click(
                    lambda number: str(examples[number]), thumbnails, image, api_visibility="private",
                    show_progress="hidden",
                )  # fmt: skip
            with gr.Column(scale=3 * len(shown), min_width=300), gr.Row():
                fields = [result_fields(one, number) for number, one in enumerate(shown)]
        for one in shown:
            with gr.Accordion(f"Model card: {one.name}", open=False):
                gr.Markdown(one.card)
        with gr.Accordion("From a program", open=False):
            gr.Markdown(for_programs(address, names=[one.name for one in shown]))
        bars, pictures, words = map(list, zip(*fields, strict=True))
        gr.on(
            [image.change], answer_with(shown), image, bars, api_name=NAME, show_progress="minimal",
            concurrency_id="networks", concurrency_limit=AT_ONCE, api_description="Probabilities of the ten classes.",
        ).then(
            look_with(shown), image, pictures + words, api_visibility="private", show_progress="hidden",
            concurrency_id="networks",
        )  # fmt: skip
    return page.queue(max_size=MOST_WAITING, default_concurrency_limit=AT_ONCE)


def result_fields(shown: Shown, number: int) -> tuple[gr.Label, gr.Image, gr.Markdown]:
    """A column with the bars of a run, the picture of what it looked at, and what that means."""
    with gr.Column(min_width=280):
        return (
            gr.Label(label=shown.name, num_top_classes=len(CLASSES), elem_id=f"bars-{number}"),
            gr.Image(
                label="What it looked at", format="png", interactive=False, buttons=["fullscreen"],
                elem_id=f"picture-{number}",
            ),
            gr.Markdown(elem_id=f"words-{number}"),
        )  # fmt: skip


def guard(field: gr.Image, folders: Sequence[Path]) -> None:
    """Make Gradio's field for an image hand over the path of what was uploaded or chosen, unopened, and nothing else.

    By itself it fetches addresses, and opens files before their size is looked at, in formats that start other
    programs. Its methods are replaced in this one object, since Gradio writes a file beside every class made from its
    own.

    Args:
        folders: where its files lie, resolved; no other file is read, whatever path a request names.
    """

    def own_file(name: str | Path) -> str:
        path = Path(name).resolve()
        if not any(path.is_relative_to(folder) for folder in folders) or not path.is_file():
            raise refusal("Only images that were uploaded here are read: no addresses, and no other files.")
        return str(path)

    async def keep(url_or_file_path: str | Path | None) -> str | None:
        return None if url_or_file_path is None else own_file(url_or_file_path)

    def preprocess(payload: Any) -> str | None:
        if payload is None:
            return None
        if not payload.path:
            raise refusal("Upload the image first, and name the path that the upload gave.")
        return own_file(payload.path)

    field.async_move_resource_to_block_cache = keep
    field.preprocess = preprocess


def answer_with(shown: Sequence[Shown]) -> Callable[[str | None], Any]:
    """The function behind the endpoint: path of an image → for each run {class: probability}, None without one."""

    def answer(image: str | None) -> Any:
        pixels = None if image is None else read_upload(image)
        answers = [None if pixels is None else class_probs(pixels, one) for one in shown]
        return answers[0] if len(answers) == 1 else answers  # as Gradio wants it of one

    return answer


def look_with(shown: Sequence[Shown]) -> Callable[[str | None], list[Any]]:
    """The function behind the pictures: path of an image → the picture of each run, then the words of each.

    Without an image, or with a file that the endpoint has refused before, they are blank.
    """

    def look(image: str | None) -> list[Any]:
        looked: list[Any] = [(None, "")] * len(shown)
        with suppress(gr.Error):
            if image is not None:
                pixels = read_upload(image)
                looked = [looked_at(pixels, one) for one in shown]
        return [picture for picture, _ in looked] + [words for _, words in looked]

    return look


def read_upload(path: str) -> Tensor:
    """An uploaded image as the networks want it, uint8 [3, 32, 32].

    Raises:
        gr.Error: it is no image, damaged or too large; the sentence does not hold the server's path.
    """
    try:
        with Path(path).open("rb") as file:
            return read_image(file)
    except (InputError, WorldError) as error:
        raise refusal(str(error)[:1].upper() + str(error)[1:]) from None
    except OSError:
        raise refusal("The upload is no longer here: upload the image again.") from None


def refusal(sentence: str) -> gr.Error:
    """What the page shows in a corner until it is closed, and the endpoint gives as its error."""
    return gr.Error(html.escape(sentence, quote=False), title="Not classified", duration=None, print_exception=False)


def introduction(shown: Sequence[Shown]) -> str:
    """What the page is, in Markdown."""
    lines = [
        "# cifar",
        f"Which of ten classes is it: {', '.join(CLASSES[:-1])} or {CLASSES[-1]}? A picture of any size is cut to the "
        "square in its middle and reduced to 32×32 pixels. There is no eleventh class: of anything else the answer is "
        "wrong, however sure it looks.",
    ]
    lines += [f"**{html.escape(one.warning)}**" for one in shown if one.warning]
    return "\n\n".join(lines)


def for_programs(address: str, *, names: Sequence[str]) -> str:
    """How to call the endpoint, in Markdown."""
    of_each = "" if len(names) == 1 else f" It holds an answer of each run, in the order {' and '.join(names)}."
    return f"""Upload a file, ask for its classes, read the answer (an event stream, whose line `data:` is JSON):

```bash
{curl_lines(address)}
```
{of_each}
At most {MOST_BYTES / 2**20:.0f} MB and {MOST_PIXELS:,} pixels an image, {MOST_WAITING} requests waiting and {AT_ONCE} \
at a time; more are refused with 503. Uploads are deleted after {KEPT_SECONDS // 60} minutes, and when the demo ends. \
Nothing is sent anywhere.
"""


def curl_lines(address: str) -> str:
    """The endpoint, called from a shell."""
    return f"""\
FILE=$(curl -sF files=@cat.png {address}gradio_api/upload | cut -d'"' -f2)
EVENT=$(curl -s {address}gradio_api/call/{NAME} -H 'Content-Type: application/json' \\
  -d '{{"data": [{{"path": "'"$FILE"'"}}]}}' | cut -d'"' -f4)
curl -sN {address}gradio_api/call/{NAME}/$EVENT"""
