"""Why files from outside are refused: the branches of the error tree for datasets, downloads and weights.

Each limit that a setting draws has a code of its own, so that a program can tell them apart. The same codes
stand beside single files that are left out (``rejected`` of a dataset), where they end nothing.
"""

from __future__ import annotations

from core.errors import DatasetRejected, InvalidRequest, RunError, UnsupportedMedia, WeightsMismatch

# --- a dataset as a whole -----------------------------------------------------------------------


class ArchiveUnreadable(DatasetRejected):
    """Not an archive of a kind that is read here, damaged, cut off, or one of several parts."""

    code = "archive_unreadable"
    title = "The archive cannot be read"


class ArchiveBomb(DatasetRejected):
    """An archive that is made to unpack to far more than it is (``POTSTILL_MAX_UNPACK_RATIO``)."""

    code = "archive_bomb"
    title = "The archive is taken for a decompression bomb"


class ArchiveEncrypted(DatasetRejected):
    """Every file of the archive needs a password."""

    code = "archive_encrypted"
    title = "The archive is encrypted"


class UnpackedTooLarge(DatasetRejected):
    """The files take more than ``POTSTILL_MAX_UNPACKED_BYTES`` when they are unpacked."""

    code = "unpacked_too_large"
    title = "The unpacked files are too large"


class TooManyFiles(DatasetRejected):
    """More files or rows than ``POTSTILL_MAX_ARCHIVE_FILES``."""

    code = "too_many_files"
    title = "There are too many files"


class NoImages(DatasetRejected):
    """Nothing in it is an image that can be read."""

    code = "no_images"
    title = "There are no images in it"


class UnsafePath(DatasetRejected):
    """Every path in it leads outside of the archive, or cannot be a path."""

    code = "unsafe_path"
    title = "The paths lead outside"


class SpecialFile(DatasetRejected):
    """There are only links, devices and the like in it."""

    code = "special_file"
    title = "There are no ordinary files in it"


class NestedArchive(DatasetRejected):
    """There are only archives in it."""

    code = "nested_archive"
    title = "Archives within an archive are not opened"


class FileTooLarge(DatasetRejected):
    """Every file in it is larger than ``POTSTILL_MAX_FILE_BYTES``."""

    code = "file_too_large"
    title = "The files are too large"


class ImageTooLarge(DatasetRejected):
    """Every image in it has more pixels than ``POTSTILL_MAX_IMAGE_PIXELS``."""

    code = "image_too_large"
    title = "The images are too large"


class TableUnclear(DatasetRejected):
    """The columns or class names of Parquet files leave open what is meant, or contradict each other."""

    code = "table_unclear"
    title = "The tables are not clear"


class TooFewImages(DatasetRejected):
    """Fewer classes or images than a training and a test split need."""

    code = "too_few_images"
    title = "There are too few classes or images"


class IngestTimeout(DatasetRejected):
    """Reading and decoding took longer than ``POTSTILL_INGEST_SECONDS``."""

    code = "ingest_timeout"
    title = "Taking the dataset in took too long"


class IngestCrashed(DatasetRejected):
    """A decoder crashed over the files; it had a process of its own."""

    code = "ingest_crashed"
    title = "A decoder crashed over these files"


# --- a dataset that is fetched ------------------------------------------------------------------


class UrlNotAllowed(InvalidRequest):
    """The service does not connect to this address, or not to what it resolves or redirects to."""

    code = "url_not_allowed"
    title = "This address is not fetched"


class DownloadFailed(RunError):
    """The file behind a URL did not arrive whole, or is none."""

    code = "download_failed"
    title = "The download failed"
    fault = "data"


class DownloadTooLarge(DownloadFailed):
    """The file behind a URL is larger than ``POTSTILL_MAX_UPLOAD_BYTES``."""

    code = "download_too_large"
    title = "The download is too large"


# --- weights ------------------------------------------------------------------------------------


class ModelNotSafetensors(UnsupportedMedia):
    """The file is a pickle, an archive or anything else that is not safetensors."""

    code = "model_not_safetensors"
    title = "Only safetensors is read"


class ModelHeaderInvalid(UnsupportedMedia):
    """The header of a safetensors file is damaged or does not describe the file."""

    code = "model_header_invalid"
    title = "The safetensors header does not fit the file"


class ModelNotFinite(WeightsMismatch):
    """Weights that hold NaN or infinity, or that make the model answer so."""

    code = "model_not_finite"
    title = "The weights are not finite"


class ModelCheckFailed(RunError):
    """The process that loaded an uploaded model ended without an answer."""

    code = "model_check_failed"
    title = "The model cannot be checked"
    fault = "data"


class ModelCheckTimeout(ModelCheckFailed):
    """Loading and running an uploaded model once took too long."""

    code = "model_check_timeout"
    title = "Checking the model took too long"
