"""Inputs of a job, fetched to this machine: its datasets and the stored models that its spec names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.data.stored import read_dataset_info
from core.models.safetensors_header import read_model_info
from core.reporting import Workspace
from core.spec import JobSpec
from core.spec.info import DatasetInfo, ModelInfo
from core.store import datasets
from core.store.artifact_store import StoredFile, parse_stored_files
from core.store.tables import Job
from core.store.weights import weights_files
from worker.context import Context
from worker.stored_files import link_folder


@dataclass(frozen=True, slots=True)
class Inputs:
    """Folders of the inputs on this machine."""

    dataset: Path
    models: Mapping[str, Path]
    datasets: Mapping[str, Path]  # further datasets, by ID
    dataset_license: str | None = None

    @classmethod
    def fetch(cls, context: Context, job: Job, spec: JobSpec, scratch: Path, poll: Callable[[], None]) -> Inputs:
        """Fetch all inputs of the spec to ``scratch`` or to the input cache.

        ``poll`` is called regularly and may raise. Raises ``StorageFailed``.
        """

        def fetch_dataset(files: Sequence[StoredFile], folder: Path) -> Path:
            return link_folder(context.store, files, folder) or context.input_cache.fetch(files, folder, poll)

        with context.database.read() as session:
            row = datasets.get(session, job.project_id, job.dataset_id)
            dataset, dataset_license = parse_stored_files(row.files), row.license
            model_files = {ref: weights_files(session, job.project_id, ref) for ref in spec.references()}
            other_datasets = {
                id_: parse_stored_files(datasets.get(session, job.project_id, id_).files)
                for id_ in spec.further_datasets().values()
            }
        return cls(
            fetch_dataset(dataset, scratch / "dataset"),
            {
                ref: context.input_cache.fetch(files, scratch / "models" / ref, poll)
                for ref, files in model_files.items()
            },
            {id_: fetch_dataset(files, scratch / "datasets" / id_) for id_, files in other_datasets.items()},
            dataset_license,
        )

    def workspace(self, context: Context, scratch: Path) -> Workspace:
        """Return the folders that the engine reads and writes."""
        root, cache = scratch / "run", context.settings.home.resolve() / "cache"
        for folder in (root, cache):
            folder.mkdir(parents=True, exist_ok=True)
        return Workspace(
            root,
            cache,
            self.dataset,
            self.models,
            self.datasets,
            teacher_cache_bytes=context.settings.teacher_cache_bytes,
            pixel_cache_bytes=context.settings.pixel_cache_bytes,
            dataset_license=self.dataset_license,
        )

    def dataset_info(self) -> DatasetInfo:
        """Return what the resolver needs to know about the job's dataset."""
        return read_dataset_info(self.dataset)

    def other_dataset_info(self) -> dict[str, DatasetInfo]:
        """Return the same for the further datasets."""
        return {id_: read_dataset_info(folder) for id_, folder in self.datasets.items()}

    def model_info(self) -> dict[str, ModelInfo]:
        """Return what the resolver needs to know about the stored models."""
        return {ref: read_model_info(folder) for ref, folder in self.models.items()}
