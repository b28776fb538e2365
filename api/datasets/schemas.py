"""Schemas of datasets and their sources."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from api.schemas import Failure, Out, Timestamp
from core.fetch.targets import MAX_URL_CHARACTERS
from core.job_warnings import JobWarning
from core.spec.dataset_layout import LayoutOptions
from core.spec.document import StrictModel
from core.spec.patterns import HUB_DATASET, HUB_REVISION, S3_URL

License = Annotated[
    str,
    StringConstraints(strip_whitespace=True, to_lower=True, min_length=1, max_length=100),
    Field(
        description="License of the images, such as `cc-by-4.0`. Reports repeat it, and estimates warn of its limits."
    ),
]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


BuiltinName = Literal["digits", "mnist-5k", "mnist-300", "mnist-unlabeled"]


class BuiltinSource(StrictModel):
    """A dataset that is part of the service."""

    type: Literal["builtin"]
    name: BuiltinName = Field(
        description="`digits`: 1,797 images of 8 pixels. `mnist-5k`: 5,000 of 28 pixels; of these, `mnist-300` has 300 "
        "labeled ones and 1,000 for the test, and `mnist-unlabeled` the other 3,700 without labels."
    )


class UrlSource(LayoutOptions):
    """A file that the ingest worker downloads."""

    type: Literal["url"]
    url: Annotated[str, StringConstraints(min_length=1, max_length=MAX_URL_CHARACTERS)] = Field(
        description="An https URL with a public address; may be a signed URL. `{000..003}` in it stands for several "
        "WebDataset shards.",
        examples=["https://example.com/pets.zip"],
    )


class UploadSource(LayoutOptions):
    """A complete resumable upload."""

    type: Literal["upload"]
    upload: Annotated[str, StringConstraints(min_length=1, max_length=64)] = Field(
        description="Id of the upload. It is deleted when the dataset is ready; a failed dataset leaves it.",
        examples=["up_01jd3v5n8e6f7g8h9jkmnpqrst"],
    )


class HuggingFaceSource(LayoutOptions):
    """The Parquet files or shards of a public dataset of the Hugging Face hub, which the ingest worker downloads."""

    type: Literal["huggingface"]
    repo: Annotated[str, StringConstraints(max_length=200, pattern=HUB_DATASET)] = Field(
        description="Name of the dataset: `owner/name`.", examples=["uoft-cs/cifar10"]
    )
    revision: Annotated[str, StringConstraints(max_length=200, pattern=HUB_REVISION)] = Field(
        default="main", description="Branch, tag or commit. The dataset's `source` then also has the `commit`."
    )
    config: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = Field(
        default=None, description="Null: the only one, or `default`."
    )
    split: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = Field(
        default=None, description="Only this split, a fifth of which becomes the test split. Null: all splits."
    )


class S3Source(LayoutOptions):
    """A file, or a folder, of a bucket that the operator has allowed."""

    type: Literal["s3"]
    url: Annotated[str, StringConstraints(max_length=2000, pattern=S3_URL)] = Field(
        description="`s3://bucket/key` of a file as for uploads. With a final `/`, a folder: its files are read as "
        "if they were in one archive. `{000..003}` stands for several WebDataset shards.",
        examples=["s3://shared-data/pets.zip", "s3://shared-data/pets/"],
    )


class DatasetCreate(StrictModel):
    """A dataset to create from a built-in dataset, a URL, an upload, the Hugging Face hub or a bucket."""

    name: Name | None = Field(default=None, description="Null: the source's own name.")
    source: Annotated[
        BuiltinSource | UrlSource | UploadSource | HuggingFaceSource | S3Source, Field(discriminator="type")
    ]
    license: License | None = None


class SplitOut(Out):
    """A split of a dataset."""

    num_samples: int


class RejectedOut(Out):
    """A file that was left out."""

    path: str
    reason: str = Field(description="Human-readable reason.")
    code: str | None = Field(default=None, description="Stable code; null in datasets of earlier versions.")


class ValueRangeOut(Out):
    """Range of the images with more than 8 bits per channel."""

    bits: int = Field(description="Smallest of 8, 10, 12, 14 and 16 bits that covers every image.")
    max: int = Field(description="The value that training sees as the brightest one.")


class IngestProgressOut(Out):
    """Progress of the ingestion."""

    processed: int = Field(description="Files read so far, with those that are left out.")
    total: int | None = Field(description="Number of files; null while it is unknown, as for a tar.")
    images_per_second: float | None


class DatasetOut(Out):
    """A dataset of images."""

    id: str
    object: Literal["dataset"] = "dataset"
    name: str
    status: Literal["processing", "ready", "failed"]
    source: dict[str, Any] = Field(
        description="The requested source; a URL without its query, which may be a secret, and an upload with the "
        "`filename` of its file."
    )
    license: str | None = Field(description="License of the images, as given; null if none was.")
    splits: dict[str, SplitOut] | None
    num_classes: int | None = Field(description="Null while processing, and for an unlabeled dataset.")
    classes: list[str] | None = Field(description="Null while processing, and for an unlabeled dataset.")
    channels: int | None
    image_size: int | None = Field(description="Default image size of jobs, in pixels per side.")
    value_range: ValueRangeOut | None = Field(
        description="Range by which images with more than 8 bits per channel are converted to 8 bits; null if there "
        "are none."
    )
    cropped_fraction: float | None = Field(
        description="Fraction of images that lose more than a third of their area, because training uses the square at "
        "the center of each image."
    )
    progress: IngestProgressOut | None = Field(description="Progress while processing, else null.")
    fingerprint: str | None = Field(description="Hash of the decoded images and labels, independent of the packing.")
    size_bytes: int | None = Field(description="Stored size; while processing, the size of the uploaded file.")
    rejected: list[RejectedOut] = Field(description="Files that were left out, with reasons.")
    warnings: list[JobWarning] = Field(description="What was found in its files; a dataset with warnings is usable.")
    error: Failure | None
    created_at: Timestamp
    finished_at: Timestamp | None


class UploadedDataset(LayoutOptions):
    """Form fields of an upload, without the file."""

    name: Name | None = None
    license: License | None = None
