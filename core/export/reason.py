"""The reason of a library's error as one readable sentence."""

from __future__ import annotations

import re

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")  # ECMA-48: colors, links
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_FOLDERS = re.compile(r"(?<![\w.:/])(?:[A-Za-z]:)?[\\/](?:[^\s\\/'\":,;()<>]+[\\/])+(?=[^\s\\/'\":,;()<>])")
_MAX_CHARACTERS = 300


def reason(error: BaseException) -> str:
    """Return the first line of the error that caused ``error``, without terminal codes and folders of this machine."""
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    return _first_line(str(root)) or _first_line(str(error)) or type(root).__name__


def _first_line(text: str) -> str:
    plain = _CONTROLS.sub("", _ESCAPES.sub("", text))
    lines = (_FOLDERS.sub("", line).strip() for line in plain.splitlines())
    return next((line for line in lines if any(character.isalpha() for character in line)), "")[:_MAX_CHARACTERS]
