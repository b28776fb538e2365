"""Errors for untrusted files: datasets, downloads and weights.

Each limit in the settings has its own code, so that a program can tell them apart. The same codes mark single
files in a dataset's ``rejected`` list, where they do not fail the dataset.
"""

from __future__ import annotations

from core.errors import DatasetRejected, InvalidRequest, RunError, UnsupportedMedia, WeightsMismatch

# --- datasets -----------------------------------------------------------------------------------


class ArchiveUnreadable(DatasetRejected):
    """The archive has an unsupported format, is damaged or truncated, or is one part of several."""

    code = "archive_unreadable"
    title = "The archive cannot be read"


class ArchiveBomb(DatasetRejected):
    """The archive unpacks to more than ``POTSTILL_MAX_UNPACK_RATIO`` times its size."""

    code = "archive_bomb"
    title = "The archive is a decompression bomb"


class ArchiveEncrypted(DatasetRejected):
    """Every file of the archive needs a password."""

    code = "archive_encrypted"
    title = "The archive is encrypted"


class UnpackedTooLarge(DatasetRejected):
    """The unpacked files exceed ``POTSTILL_MAX_UNPACKED_BYTES``."""

    code = "unpacked_too_large"
    title = "The unpacked files are too large"


class TooManyFiles(DatasetRejected):
    """The dataset has more files or rows than ``POTSTILL_MAX_ARCHIVE_FILES``."""

    code = "too_many_files"
    title = "There are too many files"


class NoImages(DatasetRejected):
    """The dataset contains no readable image."""

    code = "no_images"
    title = "The dataset contains no images"


class UnsafePath(DatasetRejected):
    """Every path leads outside the archive or is invalid."""

    code = "unsafe_path"
    title = "The paths lead outside the archive"


class SpecialFile(DatasetRejected):
    """The dataset contains only links, devices and other special files."""

    code = "special_file"
    title = "The dataset contains no regular files"


class NestedArchive(DatasetRejected):
    """The dataset contains only archives."""

    code = "nested_archive"
    title = "Nested archives are not opened"


class FileTooLarge(DatasetRejected):
    """Every file is larger than ``POTSTILL_MAX_FILE_BYTES``."""

    code = "file_too_large"
    title = "The files are too large"


class ImageTooLarge(DatasetRejected):
    """Every image has more pixels than ``POTSTILL_MAX_IMAGE_PIXELS``."""

    code = "image_too_large"
    title = "The images are too large"


class TableUnclear(DatasetRejected):
    """The columns or class names of the Parquet files are ambiguous or contradict each other."""

    code = "table_unclear"
    title = "The tables are ambiguous"


class TooFewImages(DatasetRejected):
    """The dataset has too few classes or images for a training and a test split."""

    code = "too_few_images"
    title = "There are too few classes or images"


class LayoutUnclear(DatasetRejected):
    """The folders can be read as different splits or classes; `splits` or `class_from` chooses."""

    code = "layout_unclear"
    title = "The folders can be read in several ways"


class IngestTimeout(DatasetRejected):
    """Reading and decoding took longer than ``POTSTILL_INGEST_SECONDS``."""

    code = "ingest_timeout"
    title = "Ingesting the dataset took too long"


class IngestCrashed(DatasetRejected):
    """A decoder crashed on the files, in its own process."""

    code = "ingest_crashed"
    title = "A decoder crashed on these files"


# --- single images ---------------------------------------------------------------------------


class ImageUnreadable(InvalidRequest):
    """The image cannot be decoded, or has more pixels than ``POTSTILL_MAX_IMAGE_PIXELS``."""

    code = "image_unreadable"
    title = "The image cannot be read"


# --- downloads -------------------------------------------------------------------------------


class UrlNotAllowed(InvalidRequest):
    """The service does not connect to this address, or to an address that it resolves or redirects to."""

    code = "url_not_allowed"
    title = "This address is not allowed"


class DownloadFailed(RunError):
    """The file behind a URL did not arrive completely, or the URL does not serve a file."""

    code = "download_failed"
    title = "The download failed"
    fault = "data"


class DownloadTooLarge(DownloadFailed):
    """The file behind a URL is larger than ``POTSTILL_MAX_UPLOAD_BYTES``."""

    code = "download_too_large"
    title = "The download is too large"


class HubDatasetUnclear(DatasetRejected):
    """The dataset of the hub has no Parquet files, or no such config or split; the message names what it has."""

    code = "hub_dataset_unclear"
    title = "The files of the hub's dataset are not clear"


# --- weights ------------------------------------------------------------------------------------


class ModelNotSafetensors(UnsupportedMedia):
    """The file is not a safetensors file, for example a pickle or an archive."""

    code = "model_not_safetensors"
    title = "The file is not safetensors"


class ModelHeaderInvalid(UnsupportedMedia):
    """The safetensors header is damaged or does not match the file."""

    code = "model_header_invalid"
    title = "The safetensors header does not match the file"


class ModelNotFinite(WeightsMismatch):
    """The weights contain NaN or infinity, or the model outputs NaN or infinity."""

    code = "model_not_finite"
    title = "The weights are not finite"


class ModelCheckFailed(RunError):
    """The process that checks an uploaded model ended without a result."""

    code = "model_check_failed"
    title = "The model check failed"
    fault = "data"


class ModelCheckTimeout(ModelCheckFailed):
    """Loading and running an uploaded model took too long."""

    code = "model_check_timeout"
    title = "Checking the model took too long"
