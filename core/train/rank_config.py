"""Everything that rank 0 gives to the other ranks, so that they build the same training."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from core.data.stored import INDEX
from core.errors import PotstillError, StorageFailed, error_document
from core.models.weights import CONFIG, WEIGHTS
from core.reporting import Workspace
from core.spec import JobSpec, parse_job_spec
from core.system.digest import file_digest
from core.system.disk import write_atomic
from core.train.checkpoint import MODEL_FILE, STATE_FILE

# Clients of a network file system see a new file only after their cache of its folder expires: 30 to 60 s for NFS.
_VISIBLE_SECONDS = 60.0
_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class RankConfig:
    """Everything that another rank needs to build the same training.

    ``ranks_dir`` holds the files that the ranks exchange. ``teachers`` maps the fingerprints of the teachers that the
    job trained to their folders. ``checkpoint`` is the folder that all ranks resume from.
    """

    ranks_dir: str
    spec: str
    root: str
    cache: str
    dataset: str
    models: Mapping[str, str] = field(default_factory=dict)
    datasets: Mapping[str, str] = field(default_factory=dict)
    teacher_cache_bytes: int = 0
    pixel_cache_bytes: int = 0
    teachers: Mapping[str, str] = field(default_factory=dict)
    checkpoint: str | None = None

    @classmethod
    def from_spec(
        cls, spec: JobSpec, workspace: Workspace, *, teachers: Mapping[str, Path], checkpoint: Path | None
    ) -> Self:
        """Build the configuration of a job's ranks, with absolute paths."""

        def paths(folders: Mapping[str, Path]) -> dict[str, str]:
            return {name: str(folder.resolve()) for name, folder in folders.items()}

        root = workspace.root.resolve()
        return cls(
            ranks_dir=str(root / "ranks"),
            spec=spec.model_dump_json(),
            root=str(root),
            cache=str(workspace.cache.resolve()),
            dataset=str(workspace.dataset.resolve()),
            models=paths(workspace.models),
            datasets=paths(workspace.datasets),
            teacher_cache_bytes=workspace.teacher_cache_bytes,
            pixel_cache_bytes=workspace.pixel_cache_bytes,
            teachers=paths(teachers),
            checkpoint=None if checkpoint is None else str(checkpoint.resolve()),
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a configuration file."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self) -> Path:
        """Write the configuration file to an emptied ``ranks_dir``; return its path."""
        path = Path(self.ranks_dir) / "config.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.iterdir():  # of an earlier attempt
            leftover.unlink()
        path.write_text(json.dumps(self.to_json()), encoding="utf-8")
        return path

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON document."""
        return asdict(self)

    def with_ranks_dir(self, folder: Path) -> Self:
        """Return the configuration with another folder for the files that the ranks exchange."""
        return replace(self, ranks_dir=str(folder))

    def parse_spec(self) -> JobSpec:
        """Parse the job's spec."""
        return parse_job_spec(json.loads(self.spec))

    def workspace(self, rank: int) -> Workspace:
        """Return the workspace of a rank, which writes to the shared cache only."""
        return Workspace(
            root=Path(self.root) / f"rank-{rank}",
            cache=Path(self.cache),
            dataset=Path(self.dataset),
            models={name: Path(folder) for name, folder in self.models.items()},
            datasets={name: Path(folder) for name, folder in self.datasets.items()},
            teacher_cache_bytes=self.teacher_cache_bytes,
            pixel_cache_bytes=self.pixel_cache_bytes,
        )

    def file_digests(self) -> dict[str, str]:
        """Return the SHA-256 of each file that all ranks have to read with the same content, by its path.

        The index of a dataset has the digests of its other files.
        """
        paths = [Path(folder) / INDEX for folder in (self.dataset, *self.datasets.values())]
        for folder in (*self.models.values(), *self.teachers.values()):
            paths += [Path(folder) / CONFIG, Path(folder) / WEIGHTS]
        if self.checkpoint is not None:
            paths += [Path(self.checkpoint) / STATE_FILE, Path(self.checkpoint) / MODEL_FILE]
        return {str(path): file_digest(path) for path in paths}

    def ready_path(self, rank: int) -> Path:
        """File that a rank creates after it has built its training."""
        return Path(self.ranks_dir) / f"ready-{rank}"

    def failure_path(self, rank: int) -> Path:
        """File to which a rank writes the error that ended it."""
        return Path(self.ranks_dir) / f"failure-{rank}.json"

    def log_path(self, rank: int) -> Path:
        """Log file with a rank's stdout and stderr."""
        return Path(self.ranks_dir) / f"rank-{rank}.log"

    @property
    def store_path(self) -> Path:
        """Rendezvous file of the process group, where one machine has all ranks."""
        return Path(self.ranks_dir) / "store"


def write_failure(config: RankConfig, rank: int, error: PotstillError) -> None:
    """Write the error that ended a rank to the file that its launcher reads."""
    write_atomic(config.failure_path(rank), json.dumps(error_document(error)).encode(), durable=False)


def require_files(digests: Mapping[str, str], *, timeout_seconds: float = _VISIBLE_SECONDS) -> None:
    """Check that this machine has the files of :meth:`RankConfig.file_digests`; wait until they become visible.

    Raises:
        StorageFailed: A file is missing or has another content.
    """
    deadline = time.monotonic() + timeout_seconds
    while missing := _missing(digests):
        if time.monotonic() >= deadline:
            raise StorageFailed(
                f"{missing[0]} does not exist on this machine. Dataset, weights, --out and --cache must be in folders "
                "that all machines share, under the same paths"
            )
        time.sleep(_POLL_SECONDS)
    for path, digest in digests.items():
        if file_digest(Path(path)) != digest:
            raise StorageFailed(
                f"{path} has another content on this machine than on the machine of rank 0; use a folder that all "
                "machines share, or equal copies"
            )


def _missing(paths: Iterable[str]) -> list[str]:
    return [path for path in paths if not Path(path).is_file()]
