"""Records of a stored dataset: where the image of each sample is in the blob. Imports no numpy, for the API."""

from __future__ import annotations

import struct
from typing import NamedTuple

BLOB = "images.bin"
RECORDS_SUFFIX = ".npy"  # of the file with a split's records
THUMBNAILS, THUMBNAIL_INDEX = "thumbnails.bin", "thumbnails.json"  # of large images that pages show; may be missing

FIELDS = [("offset", "<i8"), ("size", "<i8"), ("label", "<i4"), ("width", "<i4"), ("height", "<i4"), ("crc32", "<u4")]
"""Names and numpy types of a record."""

PACKED_RECORD = struct.Struct("<qqiiiI")


class Record(NamedTuple):
    """One record, as ``PACKED_RECORD`` unpacks it."""

    offset: int
    size: int
    label: int
    width: int
    height: int
    crc32: int
