"""The demo's page: what is on it, and what becomes of an image that is given to it."""

import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from torch import Tensor

from cifar.data.split import CLASSES
from cifar.errors import InputError, WorldError
from cifar.serving.classifier import Classifier
from cifar.serving.images import MOST_PIXELS, read_image
from cifar.serving.limits import AT_ONCE, KEPT_SECONDS, MOST_BYTES, MOST_WAITING

NAME = "predict"  # of the endpoint

from gradio.events import Dependency

class Upload(gr.Image):  # type: ignore[misc]
    """Gradio's field for an image, which hands over the path of what was uploaded or chosen, unopened.

    Its parent fetches addresses, and opens files before their size is looked at, in formats that start other programs.

    Attributes:
        folders: where its files lie, resolved; no other file is read, whatever path a request names.
    """

    is_template = True  # shown as Gradio's own

    folders: Sequence[Path] = ()  # no argument of __init__: Gradio shows the page what that one takes

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """Keep an uploaded file where it is.

        Raises:
            gr.Error: an address, or a file that was not uploaded.
        """
        return None if url_or_file_path is None else str(self.own_file(str(url_or_file_path)))

    def preprocess(self, payload: Any) -> str | None:
        """The path of the file that a request names.

        Raises:
            gr.Error: it was not uploaded.
        """
        if payload is None:
            return None
        if not payload.path:
            raise refusal("Upload the image first, and name the path that the upload gave.")
        return str(self.own_file(payload.path))

    def own_file(self, name: str) -> Path:
        """A file in one of the folders."""
        path = Path(name).resolve()
        if not any(path.is_relative_to(folder) for folder in self.folders) or not path.is_file():
            raise refusal("Only images that were uploaded here are read: no addresses, and no other files.")
        return path
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component


def build_page(
    classifiers: Mapping[str, Classifier], *, examples: Sequence[Path], folders: Sequence[Path], address: str
) -> gr.Blocks:
    """The page, not yet served.

    Args:
        classifiers: one or two, by the names of their runs.
        examples: image files.
        folders: where uploads and examples lie, resolved.
        address: where it will be served, with a slash at the end.
    """
    with gr.Blocks(title="cifar", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS)) as page:
        gr.Markdown(introduction(classifiers))
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                image = Upload(folders, label="Image", height=300)
                gr.Examples(
                    [[str(path)] for path in examples], [image], label="Examples: training images", api_name=None,
                    api_visibility="private", examples_per_page=len(examples),
                )  # fmt: skip
            with gr.Column(scale=3 * len(classifiers), min_width=300), gr.Row():
                bars = [
                    gr.Label(label=name, num_top_classes=len(CLASSES), min_width=280, elem_id=f"bars-{number}")
                    for number, name in enumerate(classifiers)
                ]
        with gr.Accordion("From a program", open=False):
            gr.Markdown(for_programs(address, names=list(classifiers)))
        image.change(
            answer_with(list(classifiers.values())), image, bars, api_name=NAME, show_progress="minimal",
            concurrency_limit=AT_ONCE, concurrency_id="networks", api_description="Probabilities of the ten classes.",
        )  # fmt: skip
    return page.queue(max_size=MOST_WAITING, default_concurrency_limit=AT_ONCE)


def answer_with(classifiers: Sequence[Classifier]) -> Callable[[str | None], Any]:
    """The function behind the endpoint: path of an image → for each network {class: probability}, None without one."""

    def answer(image: str | None) -> Any:
        answers = [None] * len(classifiers) if image is None else classify(read_upload(image), classifiers)
        return answers[0] if len(answers) == 1 else answers  # as Gradio wants it of one

    return answer


def classify(image: Tensor, classifiers: Sequence[Classifier]) -> list[Any]:
    """{class: probability} of each network, of an image uint8 [3, 32, 32]."""
    return [dict(zip(CLASSES, classifier.predict(image).probs[0].tolist(), strict=True)) for classifier in classifiers]


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
    """What the page shows in a corner, and the endpoint gives as its error."""
    return gr.Error(html.escape(sentence, quote=False), title="Not classified", print_exception=False)


def introduction(classifiers: Mapping[str, Classifier]) -> str:
    """What the page is, in Markdown."""
    lines = [
        "# cifar",
        f"Which of ten classes is it: {', '.join(CLASSES[:-1])} or {CLASSES[-1]}? A picture of any size is cut to the "
        "square in its middle and reduced to 32×32 pixels. There is no eleventh class: of anything else the answer is "
        "wrong, however sure it looks.",
    ]
    lines += [
        f"**{classifier.trained_on}: {html.escape(name)} HAS SEEN 1,000 IMAGES AND KNOWS NEXT TO NOTHING**"
        for name, classifier in classifiers.items()
        if classifier.trained_on.startswith("SAMPLE")
    ]
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
EVENT=$(curl -s {address}gradio_api/call/{NAME} -H 'Content-Type: application/json' -d \\
  '{{"data": [{{"path": "'"$FILE"'", "meta": {{"_type": "gradio.FileData"}}}}]}}' | cut -d'"' -f4)
curl -sN {address}gradio_api/call/{NAME}/$EVENT"""