"""Parser for multipart forms with one file: streamed to disk, limited in size, and checked from the first byte."""

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
from api.problems import invalid_field
from api.request_body import media_type
from core.errors import MalformedRequest, PayloadTooLarge, Unavailable, UnsupportedMedia
from core.spec.parse import did_you_mean
from core.store import quotas

if TYPE_CHECKING:  # the name exists only for type checkers
    from python_multipart.multipart import MultipartCallbacks

FORM_OVERHEAD_BYTES = 4 * 1024 * 1024  # everything but the file
MAX_FIELD_BYTES = 1024 * 1024
_MAX_HEADER_BYTES = 16 * 1024  # per part
_BLOCK_BYTES = 1024 * 1024  # size of a write
SNIFF_BYTES = 1024  # covers the signature of every accepted file type


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A completely received file. It is deleted when the form is closed."""

    path: Path
    filename: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Form:
    """A completely received form."""

    fields: dict[str, str]
    file: UploadedFile


@dataclass(frozen=True, slots=True)
class FormRules:
    """Accepted fields and file of a form. ``sniff`` gets the file's first bytes and raises for a wrong type."""

    fields: frozenset[str]
    max_file_bytes: int
    sniff: Callable[[bytes], None]


@asynccontextmanager
async def receive_form(request: Request, rules: FormRules, scratch_dir: Path) -> AsyncIterator[Form]:
    """Receive the request's form into a temporary directory below ``scratch_dir``.

    Raises :class:`MalformedRequest`, :class:`InvalidRequest`, :class:`PayloadTooLarge`, or what ``sniff`` raises,
    as soon as possible; :class:`Unavailable` after a disk error.
    """
    boundary = _boundary(request)
    with _disk_errors():
        directory = await to_thread.run_sync(lambda: _make_directory(scratch_dir))
    try:
        # Includes the close, which writes the rest of the file's buffer.
        with _disk_errors(), (Path(directory.name) / "file").open("w+b") as file:
            receiver = _Receiver(rules, file)
            parser = MultipartParser(boundary, receiver.callbacks())
            try:
                async for chunk in request.stream():
                    parser.write(chunk)
                    if receiver.buffered_bytes >= _BLOCK_BYTES:
                        await to_thread.run_sync(receiver.flush)
                parser.finalize()
            except FormParserError as error:
                raise MalformedRequest(f"The form cannot be read: {error}.") from None
            await to_thread.run_sync(receiver.flush)
        yield receiver.form(Path(directory.name) / "file")
    finally:
        await to_thread.run_sync(directory.cleanup)


def admit_upload(state: AppState, caller: Caller) -> int:
    """Return the maximum size in bytes of the caller's upload. Raises :class:`QuotaExceeded` for a full project."""
    with state.database.read() as session:
        quotas.require_storage(session, caller.project_id, state.settings)
        return quotas.load_quotas(session, caller.project_id, state.settings).upload_bytes


def is_form(request: Request) -> bool:
    """Whether the body is a multipart form."""
    return media_type(request) == "multipart/form-data"


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Raise :class:`Unavailable` instead of ``OSError``."""
    try:
        yield
    except OSError as error:
        raise Unavailable(f"The upload cannot be stored now: {error.strerror}. Try again later.") from error


def _make_directory(scratch_dir: Path) -> TemporaryDirectory[str]:
    scratch_dir.mkdir(parents=True, exist_ok=True)
    return TemporaryDirectory(prefix="upload-", dir=scratch_dir)


def _boundary(request: Request) -> bytes:
    if not is_form(request):
        raise UnsupportedMedia("Send multipart/form-data with the part `file`.")
    _, options = parse_options_header(request.headers["content-type"])
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= 200:
        raise MalformedRequest("The form's Content-Type has no valid boundary.")
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
    """Callbacks of the parser. They buffer data; ``flush`` writes it to disk in a thread."""

    def __init__(self, rules: FormRules, file: BinaryIO) -> None:
        self._rules = rules
        self._file = file
        self._digest = hashlib.sha256()
        self._fields: dict[str, str] = {}
        self._filename: str | None = None
        self._head: bytearray | None = bytearray()  # None once the file type was checked
        self._size = 0
        self._buffer: list[bytes] = []
        self.buffered_bytes = 0
        self._part = _Part()
        self._header = (bytearray(), bytearray())
        self._is_complete = False

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
        for block in self._buffer:
            self._digest.update(block)
            self._file.write(block)
        self._buffer.clear()
        self.buffered_bytes = 0

    def form(self, path: Path) -> Form:
        if not self._is_complete:
            raise MalformedRequest("The form ends before its last boundary; send it again.")
        if self._filename is None:
            raise invalid_field("/file", "the part `file` is missing")
        file = UploadedFile(path, self._filename, self._size, self._digest.hexdigest())
        return Form(dict(self._fields), file)

    def _part_begin(self) -> None:
        self._part = _Part()

    def _header_data(self, which: int, data: bytes) -> None:
        self._part.header_bytes += len(data)
        if self._part.header_bytes > _MAX_HEADER_BYTES:
            raise MalformedRequest("The headers of a form part are too long.")
        self._header[which].extend(data)

    def _header_end(self) -> None:
        name, value = self._header
        self._part.headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._part.headers.get(b"content-disposition", b""))
        if b"name" not in options:
            raise MalformedRequest("A form part has no name in its Content-Disposition.")
        self._part.name = _decode(options[b"name"], "a part's name")
        if b"filename" in options:
            self._part.filename = _decode(options[b"filename"], "the file's name")
        name = self._part.name
        names = sorted(self._rules.fields | {"file"})
        if name not in names:
            hint = did_you_mean(name[:80], names)
            raise invalid_field(f"/{name[:80]}", f"unknown part.{hint} Known here: {', '.join(names)}.")
        if name in self._fields or (self._part.is_file and self._filename is not None):
            raise invalid_field(f"/{name}", "the form has this part twice")
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
            raise PayloadTooLarge(f"The file is larger than the maximum of {self._rules.max_file_bytes:,} bytes.")
        self._buffer.append(data)
        self.buffered_bytes += len(data)
        if self._head is not None:
            self._head.extend(data[:SNIFF_BYTES])
            if len(self._head) >= SNIFF_BYTES:
                self._check_file_type()

    def _part_end(self) -> None:
        if not self._part.is_file:
            self._fields[self._part.name] = _decode(bytes(self._part.text), f"/{self._part.name}")
        elif self._size == 0:
            raise invalid_field("/file", "the file is empty")
        elif self._head is not None:
            self._check_file_type()

    def _check_file_type(self) -> None:
        head, self._head = bytes(self._head or b""), None
        self._rules.sniff(head)

    def _end(self) -> None:
        self._is_complete = True


def _decode(data: bytes, where: str) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise MalformedRequest(f"The form is not UTF-8: {where}.") from None
    if "\0" in text:
        raise MalformedRequest(f"The form contains a NUL character: {where}.")
    return text
