"""Records of a stored split, read from the artifact store without numpy."""

from __future__ import annotations

from core.data.records import PACKED_RECORD
from core.store.artifact_store import ArtifactStore

_HEADER_BYTES = 16  # magic, version and length of the header of a .npy file, and more


def records_range(store: ArtifactStore, key: str) -> tuple[int, int]:
    """Return the position of the first record of a ``.npy`` file, and the number of records."""
    prefix = read_range(store, key, 0, _HEADER_BYTES)
    length_bytes = 2 if prefix[6] == 1 else 4  # of format 1.0, and of later ones
    start = 8 + length_bytes + int.from_bytes(prefix[8 : 8 + length_bytes], "little")
    size = store.size(key)
    return start, 0 if size is None else (size - start) // PACKED_RECORD.size


def read_range(store: ArtifactStore, key: str, start: int, length: int) -> bytes:
    """Read a part of a file."""
    return b"".join(store.open(key, start, length))
