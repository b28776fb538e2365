"""What a job reads, brought to this machine: its dataset and the stored models that its spec names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.data.stored import StoredDataset
from core.models.safetensors_header import read_model_info
from core.reporting import Workspace
from core.spec import JobSpec
from core.spec.facts import DatasetInfo, ModelInfo
from core.store import datasets, jobs, models
from core.store.artifact_store import StoredFile
from core.store.db import Session
from core.store.tables import Job
from worker.context import Context
from worker.stored_files import link_folder, stored_files

STUDENT_FILES = ("model.safetensors", "config.json")


@dataclass(frozen=True, slots=True)
class Inputs:
    """Folders on this machine."""

    dataset: Path
    models: Mapping[str, Path]
    datasets: Mapping[str, Path]  # what the method reads beside

    @classmethod
    def gather(cls, context: Context, job: Job, spec: JobSpec, scratch: Path, poll: Callable[[], None]) -> Inputs:
        """Bring everything that the spec names below ``scratch``, or find it kept on this machine.

        ``poll`` is called meanwhile, and may raise. Raises ``StorageFailed``.
        """

        def dataset_at(files: Sequence[StoredFile], folder: Path) -> Path:
            return link_folder(context.store, files, folder) or context.inputs.fetch(files, folder, poll)

        with context.database.read() as session:
            dataset = stored_files(datasets.get(session, job.project_id, job.dataset_id).files)
            models_ = {one: _model_files(session, job.project_id, one) for one in spec.references()}
            others = {
                one: stored_files(datasets.get(session, job.project_id, one).files)
                for one in spec.method.datasets().values()
            }
        return cls(
            dataset_at(dataset, scratch / "dataset"),
            {one: context.inputs.fetch(files, scratch / "models" / one, poll) for one, files in models_.items()},
            {one: dataset_at(files, scratch / "datasets" / one) for one, files in others.items()},
        )

    def workspace(self, context: Context, scratch: Path) -> Workspace:
        """Where the engine reads and writes."""
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
        )

    def dataset_facts(self) -> DatasetInfo:
        """What a spec needs to know of the dataset to be resolved."""
        return _facts(self.dataset)

    def other_facts(self) -> dict[str, DatasetInfo]:
        """The same of what the method reads beside."""
        return {one: _facts(folder) for one, folder in self.datasets.items()}

    def model_facts(self) -> dict[str, ModelInfo]:
        """What a spec needs to know of the stored models."""
        return {one: read_model_info(folder) for one, folder in self.models.items()}


def _facts(folder: Path) -> DatasetInfo:
    with StoredDataset.open(folder) as stored:
        return DatasetInfo(
            num_classes=stored.num_classes,
            classes=stored.classes,
            channels=stored.channels,
            image_size=stored.image_size,
            num_train=len(stored.split("train")),
            num_test=len(stored.split("test")),
        )


def _model_files(session: Session, project_id: str, reference: str) -> Sequence[StoredFile]:
    if reference.startswith("mdl_"):
        return stored_files(models.get(session, project_id, reference).files)
    named = {name: jobs.get_artifact(session, project_id, reference, name) for name in STUDENT_FILES}
    return [StoredFile(one.key, one.size_bytes, one.sha256) for one in named.values()]
