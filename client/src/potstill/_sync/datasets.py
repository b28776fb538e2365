# Generated from `potstill._async` by `make docs`; do not edit.
"""``/v1/datasets``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import PrivateAttr

from potstill._sync.ingest import wait_until_ready
from potstill._sync.transport import Transport
from potstill._sync.uploads import create_from_file
from potstill.calls import create_call, json_body, object_path, parse, read_call
from potstill.dataset_layout import ClassFrom, Labels, Splits, layout_fields
from potstill.documents import DatasetDocument
from potstill.transfers import ProgressOption

_WAIT_SECONDS = 3600.0


class Dataset(DatasetDocument):
    """A dataset as the service last described it."""

    _datasets: Datasets = PrivateAttr()

    def refresh(self) -> Dataset:
        """Get the dataset's current state."""
        return self._datasets.get(self.id)

    def wait(self, *, timeout_seconds: float = _WAIT_SECONDS, progress: bool = False) -> Dataset:
        """Wait until the dataset is ready; see :meth:`Datasets.wait`."""
        return self._datasets.wait(self.id, timeout_seconds=timeout_seconds, progress=progress)

    def delete(self) -> None:
        """Delete the dataset, unless a job needs it."""
        self._datasets.delete(self.id)


class Datasets:
    """``/v1/datasets``. An argument ``dataset_id`` may be an id, a unique name or a unique id prefix."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        source: Mapping[str, Any],
        *,
        name: str | None = None,
        license: str | None = None,  # noqa: A002 - the name in the API
        idempotency_key: str | None = None,
    ) -> Dataset:
        """Create a dataset from a source that the service reads, e.g. ``{"type": "builtin", "name": "digits"}``.

        Others are ``{"type": "huggingface", "repo": "uoft-cs/cifar10"}``, ``{"type": "s3", "url": "s3://data/pets/"}``
        and ``{"type": "upload", "upload": upload.id}``. ``license`` is that of the images, such as ``cc-by-4.0``.
        """
        document = {"source": dict(source), **_given(name=name, license=license)}
        call = create_call("/v1/datasets", json_body(document), idempotency_key=idempotency_key)
        return self._bind(self._transport.read(call, Dataset))

    def create_from_url(
        self,
        url: str,
        *,
        name: str | None = None,
        labels: Labels = "auto",
        splits: Splits = "auto",
        class_from: ClassFrom = "auto",
        license: str | None = None,  # noqa: A002 - the name in the API
        idempotency_key: str | None = None,
    ) -> Dataset:
        """Create a dataset from an archive or Parquet file that the service downloads from an https URL.

        ``name`` defaults to the file name. The other arguments are those of :meth:`upload`.
        """
        source = {"type": "url", "url": url, **layout_fields(labels, splits, class_from)}
        return self.create(source, name=name, license=license, idempotency_key=idempotency_key)

    def upload(
        self,
        path: Path | str,
        *,
        name: str | None = None,
        labels: Labels = "auto",
        splits: Splits = "auto",
        class_from: ClassFrom = "auto",
        license: str | None = None,  # noqa: A002 - the name in the API
        progress: ProgressOption = False,
        idempotency_key: str | None = None,
    ) -> Dataset:
        """Upload an archive, a Parquet file, or a folder, which is packed first.

        ``labels="none"`` makes an unlabeled dataset and ignores folders and label columns. ``splits`` names the
        folders of the splits, e.g. ``{"train": "seg_train", "test": "seg_test"}``; ``"none"`` if no folder is one.
        ``class_from`` is the folder that names the class: the ``first`` below the split, or the image's ``parent``.
        ``license`` is that of the images.
        Raises :class:`InvalidArgument` if there is no such file.
        """
        path = Path(path)
        name = name or path.resolve().stem
        layout = layout_fields(labels, splits, class_from)
        fields = _given(name=name, license=license)
        response = create_from_file(
            self._transport,
            "/v1/datasets",
            path,
            {**fields, **layout},
            document=lambda upload: {**fields, "source": {"type": "upload", "upload": upload, **layout}},
            progress=progress,
            idempotency_key=idempotency_key,
        )
        return self._bind(parse(response, Dataset))

    def get(self, dataset_id: str) -> Dataset:
        """Get a dataset."""
        return self._bind(self._transport.read(read_call(object_path("datasets", dataset_id)), Dataset))

    def list(self, *, search: str | None = None, limit: int | None = None) -> Iterator[Dataset]:
        """Iterate over the datasets, newest first; pages are fetched when they are needed.

        ``search`` is words, each of which the name or id contains, in any case.
        """
        for dataset in self._transport.pages("/v1/datasets", Dataset, limit=limit, search=search):
            yield self._bind(dataset)

    def wait(self, dataset_id: str, *, timeout_seconds: float = _WAIT_SECONDS, progress: bool = False) -> Dataset:
        """Wait until the dataset is ready. Raises :class:`IngestFailed` or :class:`NotReady`."""
        return wait_until_ready(self, dataset_id, timeout_seconds=timeout_seconds, progress=progress)

    def image(self, dataset_id: str, split: Literal["train", "test"], index: int) -> bytes:
        """Return the file of one image, as it was uploaded."""
        path = object_path("datasets", dataset_id, "images", split, str(index))
        return (self._transport.send(read_call(path))).content

    def delete(self, dataset_id: str) -> None:
        """Delete a dataset that no job needs. Raises :class:`InUse`."""
        self._transport.delete(object_path("datasets", dataset_id))

    def _bind(self, dataset: Dataset) -> Dataset:
        dataset._datasets = self  # noqa: SLF001 - both classes are one unit
        return dataset


def _given(**fields: str | None) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
