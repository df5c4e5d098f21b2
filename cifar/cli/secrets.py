"""Passwords and tokens in what was typed and said, hidden: commands are recorded in run folders, and shared."""

import os
import re

HIDDEN = "***"
SECRET_NAME = r"(?:token|secret|passw(?:or)?d|api[-_]?key|access[-_]?key|credential|signature)"
PATTERNS = (
    (re.compile(r"(?<=://)[^/\s@]*[^/\s]*(?=@)"), HIDDEN),  # user:password@host
    (re.compile(rf"(?i)({SECRET_NAME}[\w-]*[=:]\s*)[^\s&'\"]+"), rf"\1{HIDDEN}"),  # token=…, also in an address
    (re.compile(r"\b(?:hf_|ghp_|gho_|github_pat_|glpat-|sk-|wandb_v1_|xox[abp]-|AKIA)[\w-]{10,}"), HIDDEN),
)
LONG_ENOUGH = 8  # characters of a variable that hold a secret


def hidden(text: str) -> str:
    """The text without passwords in addresses, tokens of known form, and values of the environment's secrets."""
    for name, value in os.environ.items():
        if re.search(rf"(?i){SECRET_NAME}|_KEY$|_PAT$", name) and len(value) >= LONG_ENOUGH:
            text = text.replace(value, HIDDEN)
    for pattern, replacement in PATTERNS:
        text = pattern.sub(replacement, text)
    return text
