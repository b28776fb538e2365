"""Multipart forms with one file, streamed to disk: never in memory, bounded, and looked at from the first byte."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, BinaryIO

from anyio import to_thread
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from api.deps import AppState, Caller
from api.request_body import media_type
from core.errors import FieldError, InvalidRequest, MalformedRequest, PayloadTooLarge, Unavailable, UnsupportedMedia
from core.spec.parse import did_you_mean
from core.store import quotas

if TYPE_CHECKING:  # it exists for type checkers alone
    from python_multipart.multipart import MultipartCallbacks

FORM_OVERHEAD_BYTES = 4 * 1024 * 1024  # all that is not the file
MAX_FIELD_BYTES = 1024 * 1024
_MAX_HEADER_BYTES = 16 * 1024  # of one part
_BLOCK_BYTES = 1024 * 1024  # written at once
SNIFF_BYTES = 1024  # enough for the header of every kind that is known


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file that has arrived whole. It is gone when the form is closed."""

    path: Path
    filename: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Form:
    """A form that has arrived whole."""

    fields: dict[str, str]
    file: UploadedFile


@dataclass(frozen=True, slots=True)
class FormRules:
    """What a form may hold. ``sniff`` is given the file's first bytes and raises if it is of a wrong kind."""

    fields: frozenset[str]
    max_file_bytes: int
    sniff: Callable[[bytes], None]


@asynccontextmanager
async def received_form(request: Request, rules: FormRules, scratch: Path) -> AsyncIterator[Form]:
    """Receive the request's form into a folder below ``scratch`` that goes away at the end.

    Raises :class:`MalformedRequest`, :class:`InvalidRequest`, :class:`PayloadTooLarge`, or what ``sniff`` raises,
    as soon as it is known; :class:`Unavailable` where the disk refuses.
    """
    boundary = _boundary(request)
    with _kept():
        folder = await to_thread.run_sync(lambda: _folder(scratch))
    try:
        # Closing writes what is still in the file's buffer.
        with _kept(), (Path(folder.name) / "file").open("w+b") as file:
            receiver = _Receiver(rules, file)
            parser = MultipartParser(boundary, receiver.callbacks())
            try:
                async for chunk in request.stream():
                    parser.write(chunk)
                    if receiver.waiting_bytes >= _BLOCK_BYTES:
                        await to_thread.run_sync(receiver.flush)
                parser.finalize()
            except FormParserError as error:
                raise MalformedRequest(f"The form cannot be read: {error}.") from None
            await to_thread.run_sync(receiver.flush)
        yield receiver.form(Path(folder.name) / "file")
    finally:
        await to_thread.run_sync(folder.cleanup)


def admit_upload(parts: AppState, who: Caller) -> int:
    """How large a file the caller may send now. Raises :class:`QuotaExceeded` where there is no room for any."""
    with parts.database.read() as session:
        quotas.require_room(session, who.project_id, parts.settings)
        return quotas.of_project(session, who.project_id, parts.settings).upload_bytes


def is_form(request: Request) -> bool:
    """Whether the body is a multipart form."""
    return media_type(request) == "multipart/form-data"


@contextmanager
def _kept() -> Iterator[None]:
    """Raise :class:`Unavailable` where the disk refuses."""
    try:
        yield
    except OSError as error:
        raise Unavailable(f"The upload cannot be kept now: {error.strerror}. Try again later.") from error


def _folder(scratch: Path) -> TemporaryDirectory[str]:
    scratch.mkdir(parents=True, exist_ok=True)
    return TemporaryDirectory(prefix="upload-", dir=scratch)


def _boundary(request: Request) -> bytes:
    if not is_form(request):
        raise UnsupportedMedia("Send multipart/form-data with the part `file`.")
    _, options = parse_options_header(request.headers["content-type"])
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= 200:
        raise MalformedRequest("The Content-Type of the form has no usable boundary.")
    return bytes(boundary)


@dataclass(slots=True)
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    header_bytes: int = 0
    name: str = ""
    filename: str | None = None
    text: bytearray = field(default_factory=bytearray)

    @property
    def is_file(self) -> bool:
        return self.name == "file"


class _Receiver:
    """The parser's callbacks. They only collect; ``flush`` writes, in a thread."""

    def __init__(self, rules: FormRules, file: BinaryIO) -> None:
        self._rules = rules
        self._file = file
        self._digest = hashlib.sha256()
        self._fields: dict[str, str] = {}
        self._filename: str | None = None
        self._head: bytearray | None = bytearray()  # None once the file was looked at
        self._size = 0
        self._waiting: list[bytes] = []
        self.waiting_bytes = 0
        self._part = _Part()
        self._header = (bytearray(), bytearray())
        self._whole = False

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": lambda data, start, end: self._header_data(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._header_data(1, data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": lambda data, start, end: self._part_data(data[start:end]),
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def flush(self) -> None:
        for block in self._waiting:
            self._digest.update(block)
            self._file.write(block)
        self._waiting.clear()
        self.waiting_bytes = 0

    def form(self, path: Path) -> Form:
        if not self._whole:
            raise MalformedRequest("The form ends before its last boundary; send it again.")
        if self._filename is None:
            raise _invalid("/file", "the part `file` is missing")
        file = UploadedFile(path, self._filename, self._size, self._digest.hexdigest())
        return Form(dict(self._fields), file)

    def _part_begin(self) -> None:
        self._part = _Part()

    def _header_data(self, which: int, data: bytes) -> None:
        self._part.header_bytes += len(data)
        if self._part.header_bytes > _MAX_HEADER_BYTES:
            raise MalformedRequest("The headers of a part of the form are too long.")
        self._header[which].extend(data)

    def _header_end(self) -> None:
        name, value = self._header
        self._part.headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._part.headers.get(b"content-disposition", b""))
        if b"name" not in options:
            raise MalformedRequest("A part of the form has no name in its Content-Disposition.")
        self._part.name = _text(options[b"name"], "a part's name")
        if b"filename" in options:
            self._part.filename = _text(options[b"filename"], "the file's name")
        name = self._part.name
        known = sorted(self._rules.fields | {"file"})
        if name not in known:
            hint = did_you_mean(name[:80], known)
            raise _invalid(f"/{name[:80]}", f"unknown part.{hint} Known here: {', '.join(known)}.")
        if name in self._fields or (self._part.is_file and self._filename is not None):
            raise _invalid(f"/{name}", "this part was given twice")
        if self._part.is_file:
            self._filename = self._part.filename or ""

    def _part_data(self, data: bytes) -> None:
        if not self._part.is_file:
            self._part.text.extend(data)
            if len(self._part.text) > MAX_FIELD_BYTES:
                raise PayloadTooLarge(f"/{self._part.name} is larger than {MAX_FIELD_BYTES:,} bytes.")
            return
        self._size += len(data)
        if self._size > self._rules.max_file_bytes:
            raise PayloadTooLarge(f"The file is larger than the {self._rules.max_file_bytes:,} bytes accepted here.")
        self._waiting.append(data)
        self.waiting_bytes += len(data)
        if self._head is not None:
            self._head.extend(data[:SNIFF_BYTES])
            if len(self._head) >= SNIFF_BYTES:
                self._look()

    def _part_end(self) -> None:
        if not self._part.is_file:
            self._fields[self._part.name] = _text(bytes(self._part.text), f"/{self._part.name}")
        elif self._size == 0:
            raise _invalid("/file", "the file is empty")
        elif self._head is not None:
            self._look()

    def _look(self) -> None:
        head, self._head = bytes(self._head or b""), None
        self._rules.sniff(head)

    def _end(self) -> None:
        self._whole = True


def _text(data: bytes, what: str) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise MalformedRequest(f"The form is not UTF-8: {what}.") from None
    if "\0" in text:
        raise MalformedRequest(f"A NUL character is not accepted: {what}.")
    return text


def _invalid(pointer: str, detail: str) -> InvalidRequest:
    return InvalidRequest(f"{pointer}: {detail}", errors=[FieldError(pointer, detail)])
