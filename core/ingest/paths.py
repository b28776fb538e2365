"""Validate and normalize names from archives and tables."""

from __future__ import annotations

import re
import unicodedata

from core.data.images import SUFFIXES
from core.data.unsupported_formats import name_by_suffix

_DRIVE = re.compile(r"[A-Za-z]:")
_ARCHIVE_SUFFIXES = frozenset(
    {".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".jar", ".cab"}
)
CLASS_NAMES_FILE = "classes.txt"
_LABEL_FILES = frozenset({"metadata.csv", "metadata.jsonl", CLASS_NAMES_FILE})
SIDECAR_SUFFIX = ".json"  # a sample of WebDataset: NAME.jpg and NAME.json
MAX_SIDECAR_BYTES = 1024**2
_MAX_PATH_LENGTH = 1024  # characters
_MAX_LABEL_LENGTH = 200
_MAX_PRINTED_LENGTH = 300


class NotAccepted(Exception):
    """A file is left out; the message is the reported reason and ``code`` its stable code."""

    def __init__(self, reason: str, *, code: str) -> None:
        super().__init__(reason)
        self.code = code


def clean_path(name: str) -> str | None:
    """Normalize a file name to a relative path with ``/`` separators; return None for files to ignore.

    Backslashes count as separators, because some Windows programs write them. ``.`` and empty parts are dropped.
    Letters are composed (NFC), so that the same tree has the same paths on every system.
    Raises :class:`NotAccepted` for a path that leads outside or is invalid.
    """
    unified = name.replace("\\", "/")
    parts = [part for part in unified.split("/") if part not in {"", "."}]
    if ".." in parts or unified.startswith("/") or _DRIVE.match(unified):
        raise NotAccepted("the path leads outside the archive", code="unsafe_path")
    if not parts or any(_is_system_file(part) for part in parts):
        return None
    path = unicodedata.normalize("NFC", "/".join(parts))
    if len(path) > _MAX_PATH_LENGTH:
        raise NotAccepted(f"the path is longer than {_MAX_PATH_LENGTH} characters", code="unsafe_path")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in path):
        raise NotAccepted("the path has control characters or is not UTF-8", code="unsafe_path")
    return path


def is_label_file(path: str) -> bool:
    """Whether a file with this path may hold labels: metadata of the hub, or ``.cls``, ``.json`` and class names."""
    name = path.rpartition("/")[2].casefold()
    return name in _LABEL_FILES or name.endswith((".cls", SIDECAR_SUFFIX))


def check_suffix(path: str, num_bytes: int) -> None:
    """Raise :class:`NotAccepted` if the file name has no image suffix, and is not that of a label file.

    A JSON file next to an image is small; a larger one is a list of annotations, which is not read.
    """
    if is_label_file(path) and not (path.casefold().endswith(SIDECAR_SUFFIX) and num_bytes > MAX_SIDECAR_BYTES):
        return
    dot = path.rfind(".", path.rfind("/") + 2)
    suffix = path[dot:].lower() if dot >= 0 else ""
    if suffix in SUFFIXES:
        return
    if suffix in _ARCHIVE_SUFFIXES:
        raise NotAccepted("nested archives are not opened; unpack it first", code="nested_archive")
    if (name := name_by_suffix(suffix)) is not None:
        raise NotAccepted(f"the file is {name}", code="not_an_image")
    raise not_an_image()


def not_an_image() -> NotAccepted:
    """Return the error for a file whose name has no image suffix."""
    return NotAccepted(
        f"the file name has no image suffix; accepted: {', '.join(sorted(SUFFIXES))}", code="not_an_image"
    )


def clean_label(text: str) -> str:
    """Normalize a class or split name from a table: composed letters (NFC), no surrounding spaces.

    Raises :class:`NotAccepted` for a name that is empty or cannot be stored.
    """
    label = unicodedata.normalize("NFC", text.strip())
    if not label:
        raise NotAccepted("the label is empty", code="label_invalid")
    if len(label) > _MAX_LABEL_LENGTH:
        raise NotAccepted(f"the label is longer than {_MAX_LABEL_LENGTH} characters", code="label_invalid")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in label):
        raise NotAccepted("the label has control characters", code="label_invalid")
    return label


def printable_name(name: str) -> str:
    """Escape an untrusted name so that it is safe to print and to store as JSON."""
    printable = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in name
    )
    return printable if len(printable) <= _MAX_PRINTED_LENGTH else printable[: _MAX_PRINTED_LENGTH - 1] + "…"


def _is_system_file(part: str) -> bool:
    """Whether an operating system created this file or folder."""
    return part.startswith(".") or part == "__MACOSX" or part.casefold() in {"thumbs.db", "desktop.ini"}
