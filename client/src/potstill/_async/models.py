"""``/v1/models``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr

from potstill._async.ingest import wait_until_ready
from potstill._async.transport import AsyncTransport
from potstill._async.uploads import create_from_file
from potstill.calls import object_path, parse, read_call
from potstill.documents import Lineage, ModelDocument
from potstill.errors import InvalidArgument
from potstill.transfers import ProgressOption

_WAIT_SECONDS = 600.0


class AsyncModel(ModelDocument):
    """Uploaded weights, or the student of a job, as the service last described it."""

    _models: AsyncModels = PrivateAttr()

    async def refresh(self) -> AsyncModel:
        """Get the model's current state."""
        return await self._models.get(self.id)

    async def wait(self, *, timeout_seconds: float = _WAIT_SECONDS, progress: bool = False) -> AsyncModel:
        """Wait until the model is ready; see :meth:`AsyncModels.wait`."""
        return await self._models.wait(self.id, timeout_seconds=timeout_seconds, progress=progress)

    async def lineage(self) -> Lineage:
        """Get the networks and jobs that the model was made from, and those that were made from it."""
        return await self._models.lineage(self.id)

    async def delete(self) -> None:
        """Delete the model, unless a job needs it."""
        await self._models.delete(self.id)


class AsyncModels:
    """``/v1/models``. An argument ``model_id`` may be an id, a unique name or a unique id prefix."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def upload(
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
    ) -> AsyncModel:
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
        response = await create_from_file(
            self._transport,
            "/v1/models",
            path,
            fields,
            document=lambda upload: {**fields, "upload": upload},
            progress=progress,
            idempotency_key=idempotency_key,
        )
        return self._bind(parse(response, AsyncModel))

    async def get(self, model_id: str) -> AsyncModel:
        """Get a model."""
        return self._bind(await self._transport.read(read_call(object_path("models", model_id)), AsyncModel))

    async def list(self, *, search: str | None = None, limit: int | None = None) -> AsyncIterator[AsyncModel]:
        """Iterate over the models, newest first; pages are fetched when they are needed.

        ``search`` is words, each of which the name, id or architecture contains, in any case.
        """
        async for model in self._transport.pages("/v1/models", AsyncModel, limit=limit, search=search):
            yield self._bind(model)

    async def wait(
        self, model_id: str, *, timeout_seconds: float = _WAIT_SECONDS, progress: bool = False
    ) -> AsyncModel:
        """Wait until the model is ready. Raises :class:`IngestFailed` or :class:`NotReady`."""
        return await wait_until_ready(self, model_id, timeout_seconds=timeout_seconds, progress=progress)

    async def lineage(self, model_id: str) -> Lineage:
        """Get the networks and jobs that a model was made from, and those that were made from it."""
        return await self._transport.read(read_call(object_path("models", model_id, "lineage")), Lineage)

    async def delete(self, model_id: str) -> None:
        """Delete a model that no job needs. Raises :class:`InUse`."""
        await self._transport.delete(object_path("models", model_id))

    def _bind(self, model: AsyncModel) -> AsyncModel:
        model._models = self  # noqa: SLF001 - both classes are one unit
        return model
