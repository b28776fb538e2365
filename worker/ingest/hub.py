"""Fetch a dataset of the Hugging Face hub for its ingestion: its Parquet files or shards, in one tar."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from core.fetch.hub import Hub, select_files

SINGLE_SPLIT = "train"  # a split that is chosen alone is the training split; a part of it becomes the test split


def fetch_hub_dataset(hub: Hub, source: Mapping[str, Any], path: Path, *, on_commit: Callable[[str], None]) -> Path:
    """Download the files that ``source`` names into a tar at ``path``; return the path.

    ``on_commit`` gets the commit that the revision stands for. Files are named by split: ``train-00000.parquet``.
    Raises what :class:`core.fetch.hub.Hub` raises.
    """
    listing = hub.list_files(source["repo"], source["revision"])
    files = select_files(
        listing, config=source["config"], split=source["split"], max_bytes=hub.downloader.limits.max_bytes
    )
    on_commit(listing.commit)
    shard = path.with_name("shard")
    numbers: Counter[str] = Counter()
    with tarfile.open(path, "x") as archive:
        for file in files:
            hub.download(source["repo"], listing.commit, file, shard)
            split = file.split if source["split"] is None else SINGLE_SPLIT
            archive.add(shard, f"{split}-{numbers[split]:05d}{listing.suffix}")
            numbers[split] += 1
            shard.unlink()
    return path
