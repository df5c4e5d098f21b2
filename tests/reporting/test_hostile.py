"""Cards and reports of run folders whose names and values were chosen by somebody hostile."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from cifar.errors import WorldError
from cifar.reporting.card import model_card
from cifar.reporting.markdown import block, code, escape, shell
from cifar.reporting.records import read_records
from cifar.reporting.report import render

RESULTS = Path(__file__).parent.parent.parent / "results"
NASTY = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "[a](javascript:alert(1))",
    "![a](http://e.example/a)",
    "`code` ```\n```html\n<b>", "---\nlicense: evil\n---", "a\n\n# Title\n\n- item", "a | b\n|-|-|\n", "{{ 7 * 7 }}",
    "$$x$$",
    "<javascript:alert(1)>", "a\r\n<iframe src=//e.example>", "&lt;script&gt;", "\x1b[31m\x00", "_x_ **y** ~~z~~",
    "'; alert(1) //", "\u202eevil", "</style></title></code></pre><svg onload=alert(1)>",
]  # fmt: skip


class Tags(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def hostile_run(parent: Path, text: str) -> Path:
    """A recorded run in a folder of a nasty name, with the text in every string of its files."""
    folder = parent / (text.replace("/", "∕").replace("\0", "") + ".run")
    later = shutil.ignore_patterns("*.png", "*.safetensors", "*.ckpt", "*.html")
    shutil.copytree(RESULTS / "cnn", folder, ignore=later)
    for name, kept in (("summary.json", {"state", "time", "model"}), ("evaluation.json", {"split"})):
        path = folder / name

        def poison(value: Any, key: str, kept: set[str] = kept) -> Any:
            if isinstance(value, dict):
                values = {inner: item if inner == "recipe" else poison(item, inner) for inner, item in value.items()}
                return values | ({text: text} if key == "versions" else {})
            if isinstance(value, list):
                return [poison(item, key) for item in value]
            return text if isinstance(value, str) and key not in kept else value

        path.write_text(json.dumps(poison(json.loads(path.read_text()), "")))
    return folder


@pytest.mark.parametrize("text", NASTY)
def test_a_card_shows_hostile_strings_and_interprets_none(text: str, tmp_path: Path) -> None:
    harmless = MarkdownIt("commonmark").enable("table").render(model_card(RESULTS / "cnn").split("\n---\n", 1)[1])
    card = model_card(hostile_run(tmp_path, text))
    header, body = card.removeprefix("---\n").split("\n---\n", 1)
    metadata = yaml.safe_load(header)
    assert metadata["license"] == "mit"
    assert metadata["model-index"][0]["name"] == "".join(hostile_name(text))
    assert text_of(body, drop=text) >= text_of(harmless, drop="")  # nothing swallowed the rest
    rendered = MarkdownIt("commonmark").enable("table").render(body)
    structure = [(tag, attributes) for tag, attributes in Tags(rendered).found if tag not in ("tr", "td", "img", "p")]
    expected = [(tag, attributes) for tag, attributes in Tags(harmless).found if tag not in ("tr", "td", "img", "p")]
    assert structure == expected


def hostile_name(text: str) -> str:
    return text.replace("/", "∕").replace("\0", "") + ".run"


def text_of(page: str, *, drop: str) -> int:
    """How many of the card's headings are there."""
    return len(re.findall(r"(?m)^## |<h2>", page.replace(drop, "") if drop else page))


@pytest.mark.parametrize("text", [NASTY[1], NASTY[-1], "$\\frac{$ _a_ [b](javascript:c)"])
def test_a_report_shows_hostile_strings_and_interprets_none(text: str, tmp_path: Path) -> None:
    folder = hostile_run(tmp_path, text)
    page = render(read_records([folder]), command=text, comparison=None)
    for tag, attributes in Tags(page).found:
        assert tag not in ("script", "iframe", "b", "object"), tag
        assert not [name for name in attributes if name.startswith("on")]
        assert not [value for value in attributes.values() if (value or "").strip().lower().startswith("javascript")]
        assert tag != "img" or (attributes["src"] or "").startswith("data:")


def test_reports_of_several_hostile_runs_are_drawn(tmp_path: Path) -> None:
    names = ["$\\frac{$", "_hidden", "a<b>&\"'", "#000000"]
    folders = []
    for name in names:
        folders.append(tmp_path / name)
        shutil.copytree(RESULTS / "cnn", folders[-1], ignore=shutil.ignore_patterns("*.png", "*.safetensors"))
    page = render(read_records(folders), command="", comparison={"reason": "<script>"})
    assert "<script" not in page
    legends = re.findall(r"<text[^>]*>([^<]*)</text>", page)
    for name in ("$\\frac{$", "_hidden"):
        assert [text for text in legends if name in text], name


@pytest.mark.parametrize(
    ("file", "content"),
    [("summary.json", {"test_accuracy": "x"}), ("summary.json", {"machine": []}), ("summary.json", {"versions": 7}),
     ("summary.json", {"test_readings": [7]}), ("evaluation.json", {"per_class": 3}), ("evaluation.json", {"loss": {}}),
     ("evaluation.json", {"confusion": [[{}]]}), ("summary.json", {"parameters": [1]})],
)  # fmt: skip
def test_values_of_another_kind_are_one_sentence(file: str, content: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(RESULTS / "cnn", folder, ignore=shutil.ignore_patterns("*.png", "*.safetensors"))
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | content))
    sentences = []
    for make in (model_card, lambda folder: render(read_records([folder]), command="", comparison=None)):
        try:
            make(folder)
        except WorldError as error:
            sentences.append(str(error))
    assert sentences
    assert not [sentence for sentence in sentences if "\n" in sentence]


def test_a_picture_that_is_none_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(RESULTS / "cnn", folder, ignore=shutil.ignore_patterns("*.png", "*.safetensors"))
    for data in (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", b"GIF89a", b""):
        (folder / "mistakes.png").write_bytes(data)
        with pytest.raises(WorldError, match="not a picture that a run drew"):
            render(read_records([folder]), command="", comparison=None)


@pytest.mark.parametrize("text", [*NASTY, "plain text, 0.1 and -1", "timm/a_b.c-d"])
def test_markdown_shows_exactly_the_text(text: str) -> None:
    shown = "".join(one for one in " ".join(text.split()) if one.isprintable())
    for before, after in (("", ""), ("# ", ""), ("- ", " end")):
        tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(f"{before}{escape(text)}{after}")
        inline = [token for token in tokens if token.type == "inline"]
        assert len(inline) == 1
        assert {child.type for child in inline[0].children or []} <= {"text", "text_special"}
        assert "".join(child.content for child in inline[0].children or []) == shown + after
    assert MarkdownIt().render(str(block(text))).count("<pre>") == (1 if text.strip() else 0)
    assert MarkdownIt().render(f"a {code(text)} b").count("<code>") == 1
    assert "\n" not in shell(text)
