"""What is recorded and said holds no password and no token; what is none stays as it is."""

import pytest

from cifar.cli import display
from cifar.cli.secrets import hidden


@pytest.mark.parametrize("text, expected", [
    ("--data https://user:pa55@example.org/x.tar", "--data https://***@example.org/x.tar"),
    ("--data https://user:p@ss@example.org/x", "--data https://***@example.org/x"),
    ("ftp://me@host/x", "ftp://***@host/x"),
    ("https://example.org/x?a=1&token=abcdef&b=2", "https://example.org/x?a=1&token=***&b=2"),
    ("https://s3.org/x?X-Amz-Signature=0a1b2c&b=2", "https://s3.org/x?X-Amz-Signature=***&b=2"),
    ("WANDB_API_KEY=0123 train", "WANDB_API_KEY=*** train"),
    ("password: hunter2", "password: ***"),
    ("push hf_abcdefghijklmnop", "push ***"),
    ("ghp_0123456789abcdef rest", "*** rest"),
    ("cifar train --set value=9f8e7d6c5b4a", "cifar train --set value=***"),
])  # fmt: skip
def test_secrets_are_hidden(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "9f8e7d6c5b4a")
    assert hidden(text) == expected


@pytest.mark.parametrize("text", [
    "cifar train -m resnet -e 50 -b 128 -l 0.1 -s runs/a@b --data https://example.org/cifar-10.tar.gz",
    "pool must be one of '', 'token' or 'avg'", "cifar train -m previt --set pool=token -s me@home:runs",
    "mynets:tokens --recipe runs/keys/recipe.json",
])  # fmt: skip
def test_the_rest_stays(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORT_TOKEN", "avg")
    assert hidden(text) == text


def test_remarks_hide_them(capsys: pytest.CaptureFixture[str]) -> None:
    display.say("The proxy http://me:secret@proxy:3128 does not answer.")
    assert capsys.readouterr().err == "The proxy http://***@proxy:3128 does not answer.\n"
