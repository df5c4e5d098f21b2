"""Strings of a run folder in Markdown: shown as they are, and never interpreted."""

import re
import shlex
from typing import Any


class Written(str):
    """Text that is Markdown already, or stands in a block of code."""


def plain(value: Any) -> Any:
    """Return what the template shows of a value: strings of a run folder become Markdown that shows them, no more.

    Whoever made the folder may have put markup there, and whoever shows the card may render it.
    """
    return value if isinstance(value, Written) or not isinstance(value, str) else escape(value)


def escape(text: str) -> Written:
    """Return text on one line, with everything escaped that Markdown or HTML would interpret, and nothing else."""
    line = "".join(character for character in " ".join(text.split()) if character.isprintable())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*\[\]|~!$#])", r"\\\1", line)
    line = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", line)  # within a word it is no emphasis
    line = re.sub(r"^([-+=])(?![\d.])", r"\\\1", line)  # where the line begins with it, but no number
    return Written(re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", line))


def code(text: str) -> Written:
    """Return text as a span of code, on one line."""
    return Written(f"`{''.join(one for one in text if one.isprintable() and one != '`')}`")


def shell(text: str) -> Written:
    """Return text as a word of a shell command, on one line."""
    return Written(shlex.quote(text).replace("\n", "'$'\\n''"))


def block(text: str) -> Written:
    """Return text as an indented block of code, without line breaks but its own."""
    lines = ["".join(one for one in line if one.isprintable()) for line in text.splitlines()]
    return Written("\n".join(f"    {line}" for line in lines))
