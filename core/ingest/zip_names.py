"""Decode the names in a zip archive.

A name is UTF-8 if its entry says so, or has the Unicode Path extra field (0x7075) with the checksum of the plain name.
For all other names of the archive one encoding is chosen: UTF-8 if every name is valid UTF-8. Otherwise the choice is
statistical: each encoding decodes the names strictly and is scored by the share of plausible characters. A tie goes to
the first of cp437 (the format's own), cp1252, GBK, Shift-JIS and cp866. The order of the entries has no influence.
Korean and Big5 names are not recognized; pack them as UTF-8.
"""

from __future__ import annotations

import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator

_UTF8_FLAG = 0x800  # zip general purpose bits
_UNICODE_PATH = 0x7075
_MAX_SCORED_NAMES = 2_000  # a million names need not be decoded five times
_LEVEL_1_KANJI = range(0x88, 0x98)  # lead bytes of the common characters in Shift-JIS


class ZipNames:
    """Decodes the names of one archive.

    Attributes:
        encoding: Encoding of the names that declare none.
        is_guessed: Whether there are such names, and they are not valid UTF-8.
    """

    def __init__(self, entries: Iterable[zipfile.ZipInfo]) -> None:
        undeclared = {raw for entry in entries if (raw := _undeclared_name(entry)) is not None and not raw.isascii()}
        self.encoding = _choose_encoding(undeclared)
        self.is_guessed = self.encoding != "utf-8"

    def decode(self, entry: zipfile.ZipInfo) -> str:
        """Return the name of an entry."""
        raw = _undeclared_name(entry)
        if raw is None:
            return _unicode_path(entry) or entry.orig_filename
        return raw.decode(self.encoding, errors="replace")


def _raw_name(entry: zipfile.ZipInfo) -> bytes:
    # zipfile truncates `filename` at the first NUL, and has decoded `orig_filename` as cp437 or UTF-8.
    return entry.orig_filename.encode("utf-8" if entry.flag_bits & _UTF8_FLAG else "cp437")


def _undeclared_name(entry: zipfile.ZipInfo) -> bytes | None:
    """Return the name's bytes, or None if the entry declares its encoding."""
    if entry.flag_bits & _UTF8_FLAG or _unicode_path(entry) is not None:
        return None
    return _raw_name(entry)


def _unicode_path(entry: zipfile.ZipInfo) -> str | None:
    """Return the name in the Unicode Path extra field, if its checksum is that of the plain name."""
    for kind, data in _extra_fields(entry.extra):
        if kind != _UNICODE_PATH or len(data) < 5 or data[0] != 1:
            continue
        (checksum,) = struct.unpack_from("<I", data, 1)
        if checksum != zlib.crc32(_raw_name(entry)):
            return None  # another program renamed the entry and left the field unchanged
        try:
            return data[5:].decode("utf-8")
        except UnicodeDecodeError:
            return None
    return None


def _extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        yield kind, extra[4 : 4 + size]
        extra = extra[4 + size :]


# --- choice of the encoding ---------------------------------------------------------------------


def _choose_encoding(names: Iterable[bytes]) -> str:
    # Not split at backslashes: the byte is also the second one of some characters.
    parts = sorted({part for name in names for part in name.split(b"/") if not part.isascii()})
    if all(_decoded(part, "utf-8") is not None for part in parts):
        return "utf-8"
    return max(_PLAUSIBLE, key=lambda encoding: _score(parts[:_MAX_SCORED_NAMES], encoding))


def _score(parts: Iterable[bytes], encoding: str) -> float:
    """Share of plausible characters among those beyond ASCII; -1 if a name cannot be decoded."""
    num_plausible = num_characters = 0
    for part in parts:
        text = _decoded(part, encoding)
        if text is None:
            return -1.0
        for index, character in enumerate(text):
            if not character.isascii():
                num_characters += 1
                num_plausible += _PLAUSIBLE[encoding](text, index)
    return num_plausible / max(1, num_characters)


def _decoded(part: bytes, encoding: str) -> str | None:
    try:
        return part.decode(encoding)
    except UnicodeDecodeError:
        return None


def _latin(text: str, index: int) -> bool:
    """A letter next to an ASCII letter; a lower-case one is not followed by an upper-case one."""
    character, before, after = text[index], text[index - 1 : index], text[index + 1 : index + 2]
    if not unicodedata.name(character, "").startswith("LATIN") or not character.isalpha():
        return False
    if character.islower() and after.isupper():
        return False
    return _is_ascii_letter(before) or _is_ascii_letter(after)


def _chinese(text: str, index: int) -> bool:
    return _is_ideograph(text[index]) and _encodes(text[index], "gb2312") and not _is_inside_word(text, index)


def _japanese(text: str, index: int) -> bool:
    character = text[index]
    is_kana = "\u3040" <= character <= "\u30ff"
    is_common = _is_ideograph(character) and character.encode("cp932")[0] in _LEVEL_1_KANJI
    return (is_kana or is_common) and not _is_inside_word(text, index)


def _cyrillic(text: str, index: int) -> bool:
    neighbors = (text[index - 1 : index], text[index + 1 : index + 2])
    return "\u0400" <= text[index] <= "\u045f" and not any(map(_is_ascii_letter, neighbors))


_PLAUSIBLE: dict[str, Callable[[str, int], bool]] = {
    "cp437": _latin,
    "cp1252": _latin,
    "gbk": _chinese,
    "cp932": _japanese,
    "cp866": _cyrillic,
}


def _is_inside_word(text: str, index: int) -> bool:
    """Whether the characters beyond ASCII around ``index`` have ASCII letters on both sides: ``gr疆e`` is no word."""
    start = end = index
    while start > 0 and not text[start - 1].isascii():
        start -= 1
    while end + 1 < len(text) and not text[end + 1].isascii():
        end += 1
    return _is_ascii_letter(text[start - 1 : start]) and _is_ascii_letter(text[end + 1 : end + 2])


def _is_ascii_letter(character: str) -> bool:
    return character.isascii() and character.isalpha()


def _is_ideograph(character: str) -> bool:
    return "\u4e00" <= character <= "\u9fff"


def _encodes(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
