"""Add thumbnails to a dataset that was ingested. A dataset without them is complete: pages show its image files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog

from core.data.records import THUMBNAIL_INDEX, THUMBNAILS
from core.errors import PotstillError
from core.ingest.thumbnails import choose_images
from core.reporting import Control
from worker.ingest.sandboxed import ProcessLimits, SandboxCrashed, SandboxTimeout, run_sandboxed

MAX_SECONDS = 120.0  # of processor time
_MAX_BYTES = 256 * 1024**2

log = structlog.get_logger(__name__)


def add_thumbnails(
    folder: Path, seed: str, *, scratch: Path, memory_bytes: int, control: Callable[[], Control]
) -> None:
    """Write the thumbnails of a stored dataset into its folder; without large images, do nothing.

    A sandboxed process decodes the images. If it fails, the dataset gets no thumbnails. Raises ``Interrupted`` after a
    drain.
    """
    indices = choose_images(folder, seed)
    if not indices:
        return
    out_folder = scratch / "thumbnails"
    out_folder.mkdir(mode=0o700)
    request = {"folder": str(folder), "out_folder": str(out_folder), "indices": indices}
    limits = ProcessLimits(memory_bytes=memory_bytes, file_bytes=_MAX_BYTES, seconds=MAX_SECONDS)
    try:
        run_sandboxed("core.ingest.thumbnails", request, limits, scratch=scratch, control=control)
    except (SandboxTimeout, SandboxCrashed, PotstillError) as error:
        log.warning("thumbnails.failed", error=f"{type(error).__name__}: {error}")
        return
    for name in (THUMBNAILS, THUMBNAIL_INDEX):
        (out_folder / name).rename(folder / name)
