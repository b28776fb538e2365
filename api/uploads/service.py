"""Logic of the upload endpoints: receive bytes, store them in parts, and read complete uploads."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from io import BytesIO
from itertools import chain

from anyio import to_thread
from starlette.requests import ClientDisconnect

from api.deps import AppState, Caller
from api.downloads import DirectUrl, discard, sign_direct
from api.problems import invalid_field
from api.uploads.schemas import UploadOut
from api.uploads.tus import Checksum, ChecksumMismatch
from core.errors import InvalidRequest, NotFound, QuotaExceeded
from core.settings import Settings
from core.store import audit, quotas, uploads
from core.store.artifact_store import ArtifactStore, StoredFile
from core.store.db import Session, utc_now
from core.store.upload_tables import Upload

MAX_DIRECT_BYTES = 5 * 1024**3  # S3's limit for one PUT request
PART_BYTES = 8 * 1024 * 1024  # in memory per request; an interrupted request loses nothing that it has sent


def create(
    session: Session, project_id: str, settings: Settings, *, size_bytes: int, filename: str, tus_metadata: str
) -> Upload:
    """Create an upload. Raises :class:`QuotaExceeded`."""
    quotas.require_storage(session, project_id, settings)
    limit = settings.quota_uploads
    if limit and (used := uploads.count(session, project_id)) >= limit:
        raise QuotaExceeded(
            f"The project has {used:,} uploads; its limit is {limit:,}. Use or delete some first (DELETE "
            "/v1/uploads/…).",
            extra={"quota": "uploads", "limit": limit, "used": used},
        )
    return uploads.create(
        session,
        project_id,
        size_bytes=size_bytes,
        filename=filename,
        tus_metadata=tus_metadata,
        retention_hours=settings.upload_retention_hours,
    )


def upload_out(upload: Upload) -> UploadOut:
    """Convert an upload row to its response document."""
    return UploadOut.model_validate(
        {
            "id": upload.id,
            "filename": upload.filename,
            "status": "complete" if upload.is_complete else "receiving",
            "size_bytes": upload.size_bytes,
            "received_bytes": upload.received_bytes,
            "created_at": upload.created_at,
            "expires_at": upload.expires_at,
        }
    )


def open_for_append(state: AppState, project_id: str, upload_id: str, start: int) -> Upload:
    """Load an upload that continues at ``start``.

    Raises :class:`NotFound`, :class:`QuotaExceeded` for a full project, and
    :class:`core.store.uploads.UploadOffsetMismatch`.
    """
    with state.database.read() as session:
        upload = uploads.get(session, project_id, upload_id)
        quotas.require_storage(session, project_id, state.settings)
    if upload.received_bytes != start:
        raise uploads.offset_mismatch(upload, start)
    return upload


@dataclass(slots=True)
class Receiver:
    """Receives the body of one request, and adds it to an upload part by part.

    With a checksum, the parts are added together once the whole body is verified.
    """

    state: AppState
    caller: Caller
    upload: Upload
    checksum: Checksum | None
    _buffer: list[bytes] = field(default_factory=list)
    _buffered_bytes: int = 0
    _unverified: list[StoredFile] = field(default_factory=list)

    async def receive(self, body: AsyncIterator[bytes]) -> Upload:
        """Receive the body; return the upload as it is then.

        The bytes before a broken connection are added too. Raises :class:`InvalidRequest` for more bytes than the
        upload has, :class:`ChecksumMismatch`, :class:`core.store.uploads.UploadOffsetMismatch` and ``StorageFailed``.
        """
        try:
            async for chunk in body:
                self._append(chunk)
                if self._buffered_bytes >= PART_BYTES:
                    await to_thread.run_sync(self._store_part)
            await to_thread.run_sync(self._finish)
        except ClientDisconnect:
            if self.checksum is None:
                await to_thread.run_sync(self._finish)
            raise
        finally:
            if self._unverified:
                await to_thread.run_sync(discard, self.state.store, [file.key for file in self._unverified])
        return self.upload

    def _append(self, chunk: bytes) -> None:
        pending = sum(file.size_bytes for file in self._unverified) + self._buffered_bytes + len(chunk)
        if self.upload.received_bytes + pending > self.upload.size_bytes:
            raise InvalidRequest(
                f"The body has more bytes than Upload-Length, which is {self.upload.size_bytes:,}; send the bytes from "
                f"offset {self.upload.received_bytes:,} to the end of the file."
            )
        self._buffer.append(chunk)
        self._buffered_bytes += len(chunk)

    def _store_part(self) -> None:
        if not self._buffered_bytes:
            return
        start = self.upload.received_bytes
        key = f"{uploads.part_prefix(self.upload.id)}/{start:016d}-{secrets.token_hex(8)}"
        self._unverified.append(self.state.store.put(key, BytesIO(b"".join(self._buffer))))
        self._buffer, self._buffered_bytes = [], 0
        if self.checksum is None:
            self._add_parts()

    def _finish(self) -> None:
        if self.checksum is not None:
            stored = chain.from_iterable(self.state.store.open(file.key) for file in self._unverified)
            if not self.checksum.matches(chain(stored, self._buffer)):
                raise ChecksumMismatch("The bytes do not have this Upload-Checksum; send them again.")
        self._store_part()
        if self._unverified:
            self._add_parts()

    def _add_parts(self) -> None:
        with self.state.database.write() as session:
            retention = timedelta(hours=self.state.settings.upload_retention_hours)
            start = self.upload.received_bytes
            self.upload = uploads.add_parts(session, self.upload, start, self._unverified, utc_now(session) + retention)
            if self.upload.is_complete:  # one entry per upload, not per part
                audit.record(session, self.caller, "upload.complete", self.upload.id)
        self._unverified = []


# --- direct transfer to a bucket ------------------------------------------------------------------------


def sign_upload(state: AppState, project_id: str, upload_id: str) -> DirectUrl:
    """Return a URL to which a client sends a whole upload.

    Raises :class:`NotFound`, :class:`QuotaExceeded`, :class:`core.store.uploads.UploadOffsetMismatch` for an upload
    that has bytes, :class:`DirectTransferUnavailable`, and :class:`InvalidRequest` for a file that is too large.
    """
    upload = open_for_append(state, project_id, upload_id, 0)
    if upload.size_bytes > MAX_DIRECT_BYTES:
        raise InvalidRequest(
            f"One PUT request to a bucket sends at most {MAX_DIRECT_BYTES:,} bytes; send this file with PATCH."
        )
    return sign_direct(state.store, state.settings, _direct_key(upload_id), "PUT")


def find(state: AppState, project_id: str, upload_id: str) -> Upload:
    """Load an upload. Raises :class:`NotFound`."""
    with state.database.read() as session:
        return uploads.get(session, project_id, upload_id)


def find_direct(state: AppState, upload: Upload, sha256: str) -> StoredFile:
    """Return the file that a client sent to the bucket, with the client's hash.

    Raises :class:`InvalidRequest` if the bucket does not have the whole file.
    """
    key = _direct_key(upload.id)
    stored_bytes = state.store.size(key)
    if stored_bytes != upload.size_bytes:
        found = "no file" if stored_bytes is None else f"a file of {stored_bytes:,} bytes"
        raise InvalidRequest(
            f"The bucket has {found}, Upload-Length is {upload.size_bytes:,}. Send the file to the URL of POST "
            f"/v1/uploads/{upload.id}/direct first."
        )
    return StoredFile(key, upload.size_bytes, sha256)


def add_direct(session: Session, settings: Settings, upload: Upload, file: StoredFile) -> Upload:
    """Complete an upload. Raises :class:`core.store.uploads.UploadOffsetMismatch` if it has bytes already."""
    expires_at = utc_now(session) + timedelta(hours=settings.upload_retention_hours)
    return uploads.add_parts(session, upload, 0, [file], expires_at)


def _direct_key(upload_id: str) -> str:
    return f"{uploads.part_prefix(upload_id)}/direct"


# --- use by datasets and models -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CompleteUpload:
    """A complete upload with its parts."""

    id: str
    filename: str
    size_bytes: int
    parts: Sequence[StoredFile]

    def read_head(self, store: ArtifactStore, num_bytes: int) -> bytes:
        """Return the first bytes of the file."""
        head = bytearray()
        for chunk in chain.from_iterable(store.open(part.key) for part in self.parts):
            head += chunk
            if len(head) >= num_bytes:
                break
        return bytes(head[:num_bytes])


def find_complete(session: Session, project_id: str, upload_id: str, pointer: str) -> CompleteUpload:
    """Find a complete upload for a request with its id in the field ``pointer``. Raises :class:`InvalidRequest`."""
    upload = _require_complete(lambda: uploads.get(session, project_id, upload_id), pointer)
    return CompleteUpload(upload.id, upload.filename, upload.size_bytes, uploads.list_parts(session, upload.id))


def lock_complete(session: Session, project_id: str, upload_id: str, pointer: str) -> Upload:
    """Lock a complete upload until the transaction ends, so that it is not deleted. Raises :class:`InvalidRequest`."""
    return _require_complete(lambda: uploads.get_for_use(session, project_id, upload_id), pointer)


def _require_complete(load: Callable[[], Upload], pointer: str) -> Upload:
    try:
        upload = load()
    except NotFound as error:
        raise invalid_field(pointer, f"{error.detail} It may have expired; send the file again.") from None
    if not upload.is_complete:
        raise invalid_field(
            pointer,
            f"{upload.id} has {upload.received_bytes:,} of {upload.size_bytes:,} bytes; send the rest first",
        )
    return upload
