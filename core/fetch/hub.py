"""Datasets of the Hugging Face hub: list the Parquet files or WebDataset shards of a revision, and download them.

The hub is one more untrusted host: everything goes through :class:`core.fetch.download.Downloader`, including the
redirects to its storage. No token is sent, so private and gated datasets are not reachable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from core.fetch.download import Downloader
from core.ingest_errors import DownloadFailed, DownloadTooLarge, HubDatasetUnclear
from core.system.digest import file_digest

CONVERTED = "refs/convert/parquet"  # branch in which the hub stores datasets of other formats as Parquet
MAX_LISTING_BYTES = 64 * 1024**2
MAX_FILES = 10_000
_PARQUET_MAGIC, _TAR_MAGIC = b"PAR1", b"ustar"
_SHARD = re.compile(r"(?P<split>.+?)(?:-\d+-of-\d+)?(?:-[0-9a-f]{16})?")  # train-00000-of-00002-1a2b3c4d5e6f7a8b
_SHARD_NUMBER = re.compile(r"[-_.]?\d+$")  # of train-000001.tar
PARQUET, TAR = ".parquet", ".tar"
_DATA_FOLDERS = frozenset({"", ".", "data", "default"})
_MAX_PATH_CHARACTERS = 1024
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A Parquet file or shard of a dataset. ``sha256`` is None if the hub does not state it."""

    path: str
    config: str
    split: str
    size_bytes: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class HubListing:
    """The files of a dataset at one commit: Parquet files, or without them WebDataset shards."""

    commit: str
    files: tuple[HubFile, ...]
    suffix: str = PARQUET


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """Client of a hub. ``scratch`` is a folder for the listing."""

    downloader: Downloader
    endpoint: str
    scratch: Path
    on_chunk: Callable[[], None]

    def list_files(self, repo: str, revision: str) -> HubListing:
        """List the Parquet files or else the shards of a revision, or of the hub's own conversion of the main branch.

        Raises :class:`DownloadFailed`, :class:`UrlNotAllowed`, and :class:`HubDatasetUnclear` without such files.
        """
        listing = self._list(repo, revision)
        if not listing.files and revision == "main":
            listing = self._list(repo, CONVERTED)
        if not listing.files:
            raise HubDatasetUnclear(
                f"{repo} has no Parquet files and no tar files at {revision}. Choose a revision that has them, such as "
                f"{CONVERTED}, or download the dataset and upload it as a zip of images."
            )
        return listing

    def download(self, repo: str, commit: str, file: HubFile, path: Path) -> None:
        """Download a file, and verify its size and hash. Raises :class:`DownloadFailed`, :class:`UrlNotAllowed`."""
        limits = replace(self.downloader.limits, max_bytes=min(self.downloader.limits.max_bytes, file.size_bytes))
        downloader = replace(self.downloader, limits=limits)
        url = f"{self.endpoint}/datasets/{_quote(repo)}/resolve/{commit}/{_quote(file.path)}"
        check_head = _require_parquet if file.path.endswith(PARQUET) else _require_archive
        size = downloader.save(url, path, check_head=check_head, on_chunk=self.on_chunk)
        if size != file.size_bytes:
            raise DownloadFailed(f"{file.path} has {size:,} bytes, the hub lists {file.size_bytes:,}; try again later")
        if file.sha256 is not None and file_digest(path) != file.sha256:
            raise DownloadFailed(f"{file.path} does not have the sha256 that the hub lists; try again later")

    def _list(self, repo: str, revision: str) -> HubListing:
        url = f"{self.endpoint}/api/datasets/{_quote(repo)}/revision/{quote(revision, safe='')}?blobs=true"
        path = self.scratch / "listing.json"
        limits = replace(self.downloader.limits, max_bytes=MAX_LISTING_BYTES)
        try:
            replace(self.downloader, limits=limits).save(
                url, path, check_head=lambda _head: None, on_chunk=self.on_chunk
            )
            document = json.loads(path.read_bytes())
        except DownloadFailed as error:
            raise DownloadFailed(
                f"{repo} cannot be listed at {revision}: {error.detail}. Private and gated datasets are not reachable; "
                "download them and upload the files."
            ) from error
        except ValueError:
            raise DownloadFailed(f"the hub's description of {repo} is not JSON") from None
        finally:
            path.unlink(missing_ok=True)
        return _parse_listing(repo, document)


def select_files(listing: HubListing, *, config: str | None, split: str | None, max_bytes: int) -> list[HubFile]:
    """Return the files of one config and one split (None: all splits).

    Raises :class:`HubDatasetUnclear` if the dataset has no such config or split, or several configs and none is
    chosen, and :class:`DownloadTooLarge`.
    """
    configs = _names(file.config for file in listing.files)
    if config is None:
        if len(configs) > 1 and "default" not in configs:
            raise HubDatasetUnclear(
                f"/source/config: the dataset has several configs; choose one of {_quoted(configs)}"
            )
        config = "default" if "default" in configs else configs[0]
    if config not in configs:
        raise HubDatasetUnclear(f"/source/config: there is no config {config}; choose one of {_quoted(configs)}")
    files = [file for file in listing.files if file.config == config]
    splits = _names(file.split for file in files)
    if split is not None:
        files = [file for file in files if file.split == split]
        if not files:
            raise HubDatasetUnclear(f"/source/split: there is no split {split}; choose one of {_quoted(splits)}")
    if (total := sum(file.size_bytes for file in files)) > max_bytes:
        raise DownloadTooLarge(
            f"the files of the dataset have {total:,} bytes, at most {max_bytes:,} are accepted; choose one split"
        )
    return files


def _parse_listing(repo: str, document: Any) -> HubListing:
    try:
        commit, siblings = str(document["sha"]), list(document["siblings"])
        by_suffix = {
            suffix: [entry for entry in siblings if str(entry["rfilename"]).endswith(suffix)]
            for suffix in (PARQUET, TAR)
        }
        suffix = TAR if by_suffix[TAR] and not by_suffix[PARQUET] else PARQUET
        files = tuple(_parse_file(entry, suffix) for entry in by_suffix[suffix][: MAX_FILES + 1])
    except (KeyError, TypeError, ValueError, AttributeError):
        commit, files, suffix = "", (), PARQUET
    if not _COMMIT.fullmatch(commit):
        raise DownloadFailed(f"the hub's description of {repo} has no usable list of files")
    if len(files) > MAX_FILES:
        raise HubDatasetUnclear(f"{repo} has more than {MAX_FILES:,} {suffix} files; choose a smaller dataset")
    return HubListing(commit, tuple(sorted(files, key=lambda file: file.path)), suffix)


def _parse_file(entry: Any, suffix: str) -> HubFile:
    path, size = str(entry["rfilename"])[:_MAX_PATH_CHARACTERS], int(entry["size"])
    *folders, name = path.split("/")
    stem = name.removesuffix(suffix)
    if suffix == TAR:
        stem = _SHARD_NUMBER.sub("", stem) or stem
    if stem.isdecimal() and folders:  # CONFIG/SPLIT/0000.parquet, as in the hub's conversion
        split = folders.pop().removeprefix("partial-")
    else:
        match = _SHARD.fullmatch(stem)
        split = match["split"] if match is not None else stem
    config = "/".join(folder for folder in folders if folder not in _DATA_FOLDERS) or "default"
    sha256 = (entry.get("lfs") or {}).get("sha256")
    return HubFile(path, config, split, size, None if sha256 is None else str(sha256))


def _require_parquet(head: bytes) -> None:
    if not head.startswith(_PARQUET_MAGIC):
        raise DownloadFailed("the hub answered with another file than Parquet")


def _require_archive(head: bytes) -> None:
    if not head[257:].startswith(_TAR_MAGIC):
        raise DownloadFailed("the hub answered with another file than a tar")


def _names(names: Iterable[str]) -> list[str]:
    return sorted(set(names))


def _quoted(names: Sequence[str]) -> str:
    shown = ", ".join(name[:60] for name in names[:20])
    return shown if len(names) <= 20 else f"{shown} and {len(names) - 20} more"


def _quote(path: str) -> str:
    return quote(path, safe="/")
