"""Records of a stored dataset: where the image of each sample is in the blob. Imports numpy alone."""

from __future__ import annotations

import numpy as np

BLOB = "images.bin"
RECORDS_SUFFIX = ".npy"  # of the file with a split's records

RECORD = np.dtype(
    [("offset", "<i8"), ("size", "<i8"), ("label", "<i4"), ("width", "<i4"), ("height", "<i4"), ("crc32", "<u4")]
)
