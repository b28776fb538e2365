# Generated from `potstill._async` by `make docs`; do not edit.
"""``/v1/models``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr

from potstill._sync.ingest import wait_until_ready
from potstill._sync.transport import Transport
from potstill._sync.uploads import create_from_file
from potstill.calls import object_path, parse, read_call
from potstill.documents import Lineage, ModelDocument
from potstill.errors import InvalidArgument
from potstill.transfers import ProgressOption

_WAIT_SECONDS = 600.0


class Model(ModelDocument):
    """Uploaded weights, or the student of a job, as the service last described it."""

    _models: Models = PrivateAttr()

    def refresh(self) -> Model:
        """Get the model's current state."""
        return self._models.get(self.id)

    def wait(self, *, timeout_seconds: float = _WAIT_SECONDS, progress: bool = False) -> Model:
        """Wait until the model is ready; see :meth:`Models.wait`."""
        return self._models.wait(self.id, timeout_seconds=timeout_seconds, progress=progress)

    def lineage(self) -> Lineage:
        """Get the networks and jobs that the model was made from, and those that were made from it."""
        return self._models.lineage(self.id)

    def delete(self) -> None:
        """Delete the model, unless a job needs it."""
        self._models.delete(self.id)


class Models:
    """``/v1/models``. An argument ``model_id`` may be an id, a unique name or a unique id prefix."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(
        self,
        path: Path | str,
        *,
        architecture: str,
        arguments: Mapping[str, Any] | None = None,
        name: str | None = None,
        normalization: Mapping[str, Any] | None = None,
        classes: Sequence[str] | None = None,
        progress: ProgressOption = False,
        idempotency_key: str | None = None,
    ) -> Model:
        """Upload a safetensors file for a timm architecture.

        ``arguments`` are those of ``timm.create_model``. ``normalization`` is ``{"mean": […], "std": […]}``. Raises
        :class:`InvalidArgument` if there is no such file.
        """
        path = Path(path)
        if not path.is_file():
            raise InvalidArgument(f"there is no file {path}")
        fields: dict[str, Any] = {
            "name": name or path.stem,
            "architecture": architecture,
            "arguments": dict(arguments or {}),
        }
        if normalization is not None:
            fields["normalization"] = dict(normalization)
        if classes is not None:
            fields["classes"] = list(classes)
        response = create_from_file(
            self._transport,
            "/v1/models",
            path,
            fields,
            document=lambda upload: {**fields, "upload": upload},
            progress=progress,
            idempotency_key=idempotency_key,
        )
        return self._bind(parse(response, Model))

    def get(self, model_id: str) -> Model:
        """Get a model."""
        return self._bind(self._transport.read(read_call(object_path("models", model_id)), Model))

    def list(self, *, search: str | None = None, limit: int | None = None) -> Iterator[Model]:
        """Iterate over the models, newest first; pages are fetched when they are needed.

        ``search`` is words, each of which the name, id or architecture contains, in any case.
        """
        for model in self._transport.pages("/v1/models", Model, limit=limit, search=search):
            yield self._bind(model)

    def wait(self, model_id: str, *, timeout_seconds: float = _WAIT_SECONDS, progress: bool = False) -> Model:
        """Wait until the model is ready. Raises :class:`IngestFailed` or :class:`NotReady`."""
        return wait_until_ready(self, model_id, timeout_seconds=timeout_seconds, progress=progress)

    def lineage(self, model_id: str) -> Lineage:
        """Get the networks and jobs that a model was made from, and those that were made from it."""
        return self._transport.read(read_call(object_path("models", model_id, "lineage")), Lineage)

    def delete(self, model_id: str) -> None:
        """Delete a model that no job needs. Raises :class:`InUse`."""
        self._transport.delete(object_path("models", model_id))

    def _bind(self, model: Model) -> Model:
        model._models = self  # noqa: SLF001 - both classes are one unit
        return model
