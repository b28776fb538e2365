"""Images of the quality benchmark: CIFAR-10, split once with a fixed seed.

The validation images are in no training data, neither of a student nor of a teacher. The test split is read only for
a finished network.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from benchmarks.results import ROOT
from core.data.stored import INDEX
from core.spec.dataset_layout import Labels, LayoutOptions

ARCHIVE = ROOT.parent / "shared" / "data" / "cifar10-images.zip"
NUM_CLASSES = 10

STUDENTS, STUDENTS_90, ASSISTANT, POOL = "ds_students", "ds_students_90", "ds_assistant", "ds_pool"
TEACHERS, FINAL = "ds_teachers", "ds_final"
DATASETS = (STUDENTS, STUDENTS_90, ASSISTANT, POOL, TEACHERS, FINAL)


@dataclass(frozen=True, slots=True)
class SplitSizes:
    """Images of the training split in each of four disjoint parts; multiples of 10, for as many classes.

    ``teachers`` and ``test`` limit the images of teachers and of the test split; None: all.
    """

    train: int = 2_000
    validation: int = 5_000
    assistant: int = 8_000
    pool: int = 10_000
    teachers: int | None = None
    test: int | None = None


class ArchiveMissing(Exception):
    """The CIFAR-10 archive is missing; the message names the expected path."""


def split_images(
    work: Path, sizes: SplitSizes, *, archive: Path = ARCHIVE, names: Sequence[str] = DATASETS
) -> dict[str, Path]:
    """Return the stored datasets ``names`` by id, and create them in ``work`` if needed.

    All are evaluated on the validation images, except ``ds_final``, which has the archive's test split. Teachers train
    on all images but those for validation. ``ds_students_90`` has nine tenths of the students' images.

    Raises:
        ArchiveMissing: A dataset has to be created, and there is no archive.
    """
    folder = work / f"images-{'-'.join('all' if size is None else str(size) for size in astuple(sizes))}"
    stored = {name: folder / name for name in names}
    if all((path / INDEX).is_file() for path in stored.values()):
        return stored
    if not archive.is_file():
        raise ArchiveMissing(
            f"{archive} is missing: a zip of CIFAR-10 as train/CLASS/NNNN.jpg and test/CLASS/NNNN.jpg is needed"
        )
    with zipfile.ZipFile(archive) as content:
        parts = split_names(_members(content, "train"), sizes)
        limit = None if sizes.test is None else sizes.test // NUM_CLASSES
        test = [name for names in _members(content, "test").values() for name in names[:limit]]
        for dataset, path in stored.items():
            labels: Labels = "none" if dataset == POOL else "auto"
            _store(content, path, parts[dataset], test if dataset == FINAL else parts["validation"], labels=labels)
    return stored


def split_digest(datasets: Mapping[str, Path]) -> str:
    """Return a SHA-256 of the content of all datasets."""
    from core.data.stored import StoredDataset

    digest = hashlib.sha256()
    for name in sorted(datasets):
        with StoredDataset.open(datasets[name]) as stored:
            digest.update(f"{name} {stored.fingerprint}\n".encode())
    return digest.hexdigest()


def split_names(images: Mapping[str, Sequence[str]], sizes: SplitSizes) -> dict[str, list[str]]:
    """Return the training images of each dataset, and those for validation, from the names by class.

    The draw of a class depends on its name alone, so it is the same on every machine.
    """
    parts: dict[str, list[str]] = {name: [] for name in (*DATASETS, "validation")}
    for label, names in sorted(images.items()):
        shuffled = random.Random(f"split {label}").sample(names, len(names))
        counts = [count // NUM_CLASSES for count in (sizes.validation, sizes.train, sizes.assistant, sizes.pool)]
        ends = [sum(counts[: index + 1]) for index in range(4)]
        assert ends[-1] <= len(names), f"{label} has {len(names)} images, fewer than the parts need"
        students = shuffled[ends[0] : ends[1]]
        parts["validation"] += shuffled[: ends[0]]
        parts[STUDENTS] += students
        parts[STUDENTS_90] += students[: len(students) * 9 // 10]
        parts[FINAL] += students
        parts[ASSISTANT] += shuffled[ends[1] : ends[2]]
        parts[POOL] += shuffled[ends[2] : ends[3]]
        limit = len(names) if sizes.teachers is None else ends[0] + sizes.teachers // NUM_CLASSES
        parts[TEACHERS] += shuffled[ends[0] : limit]
    return parts


def _members(archive: zipfile.ZipFile, split: str) -> dict[str, list[str]]:
    """Return the archive members of a split by class, sorted."""
    found: dict[str, list[str]] = {}
    for name in sorted(archive.namelist()):
        parts = name.split("/")
        if len(parts) == 3 and parts[0] == split and parts[2]:
            found.setdefault(parts[1], []).append(name)
    return found


def _store(
    archive: zipfile.ZipFile, target: Path, train: Sequence[str], test: Sequence[str], *, labels: Labels
) -> None:
    from core.ingest.dataset import ingest_folder  # slow to import, not needed where the datasets exist

    loose = target.with_name(f".{target.name}-files")
    shutil.rmtree(loose, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    for split, names in (("train", train), ("test", test)):
        for name in names:
            _, label, file = name.split("/")
            path = loose / split / label / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(name))
    ingest_folder(loose, target, options=LayoutOptions(labels=labels))
    shutil.rmtree(loose)
