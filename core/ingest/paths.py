"""What the name of a file in an archive says about it: where it belongs, or why it is left out."""

from __future__ import annotations

import re
import unicodedata

from core.data.images import SUFFIXES

_DRIVE = re.compile(r"[A-Za-z]:")
_ARCHIVES = frozenset(
    {".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".jar", ".cab"}
)
_MAX_PATH = 1024  # characters
_MAX_LABEL = 200
_MAX_SHOWN = 300


class NotAccepted(Exception):
    """This file is left out; the text is the reason that is reported, ``code`` a stable word for it."""

    def __init__(self, reason: str, *, code: str) -> None:
        super().__init__(reason)
        self.code = code


def clean_path(name: str) -> str | None:
    """The path inside the dataset that a name means, with ``/`` between its parts; None to ignore it silently.

    Backslashes count as separators (some Windows programs write them), ``.`` and empty parts are
    dropped, letters are composed (NFC), so that the same tree packed on another system has the same
    paths. Raises :class:`NotAccepted` for a path that leads outside or cannot be a path.
    """
    unified = name.replace("\\", "/")
    parts = [part for part in unified.split("/") if part not in {"", "."}]
    if ".." in parts or unified.startswith("/") or _DRIVE.match(unified):
        raise NotAccepted("the path leads outside the archive", code="unsafe_path")
    if not parts or any(_is_clutter(part) for part in parts):
        return None
    path = unicodedata.normalize("NFC", "/".join(parts))
    if len(path) > _MAX_PATH:
        raise NotAccepted(f"the path is longer than {_MAX_PATH} characters", code="unsafe_path")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in path):
        raise NotAccepted("the path has control characters or is not UTF-8", code="unsafe_path")
    return path


def check_kind(path: str) -> None:
    """Raise :class:`NotAccepted` for a file whose name does not end like an image's."""
    dot = path.rfind(".", path.rfind("/") + 2)
    suffix = path[dot:].lower() if dot >= 0 else ""
    if suffix in SUFFIXES:
        return
    if suffix in _ARCHIVES:
        raise NotAccepted("an archive within the dataset is not opened; unpack it first", code="nested_archive")
    raise NotAccepted(f"not an image file by its name; accepted are {', '.join(sorted(SUFFIXES))}", code="not_an_image")


def clean_label(text: str) -> str:
    """A class or split that a table names, with composed letters (NFC) and no space around it.

    Raises :class:`NotAccepted` for one that cannot be stored or is empty.
    """
    label = unicodedata.normalize("NFC", text.strip())
    if not label:
        raise NotAccepted("the label is empty", code="label_invalid")
    if len(label) > _MAX_LABEL:
        raise NotAccepted(f"the label is longer than {_MAX_LABEL} characters", code="label_invalid")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in label):
        raise NotAccepted("the label has control characters", code="label_invalid")
    return label


def shown(name: str) -> str:
    """A name that came from outside, safe to print and to store as JSON."""
    printable = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in name
    )
    return printable if len(printable) <= _MAX_SHOWN else printable[: _MAX_SHOWN - 1] + "…"


def _is_clutter(part: str) -> bool:
    """What systems leave in folders without being asked."""
    return part.startswith(".") or part == "__MACOSX" or part.casefold() in {"thumbs.db", "desktop.ini"}
