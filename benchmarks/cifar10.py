"""Images and teachers of the quality benchmark: CIFAR-10, split once with a fixed seed.

No image of the test split is in a dataset that a method trains on or that a choice depends on.
"""

from __future__ import annotations

import random
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import load_file

from benchmarks.results import ROOT
from core.data.stored import INDEX
from core.ingest.dataset import ingest_folder
from core.models.preprocessing import normalized
from core.models.weights import CONFIG, save_folder
from core.spec.dataset_layout import Labels, LayoutOptions

ARCHIVE = ROOT.parent / "shared" / "data" / "cifar10-images.zip"
TEACHER = ROOT.parent / "shared" / "models" / "cifar10-dla34.safetensors"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of the teacher's training, from its README
IMAGE_SIZE, NUM_CLASSES = 32, 10

STUDENTS, FINAL, POOL, TEACHER_SET = "ds_students", "ds_final", "ds_pool", "ds_teacher"


@dataclass(frozen=True, slots=True)
class SplitSizes:
    """Images per class of the training archive in each of four disjoint parts."""

    train: int
    validation: int
    unlabeled_pool: int
    teacher_extra: int  # for the ViT teacher, in addition to `train`


class ArchiveMissing(Exception):
    """The CIFAR-10 archive is missing; the message names the expected path."""


def split_images(work: Path, sizes: SplitSizes) -> dict[str, Path]:
    """Return the stored datasets by id, creating them in ``work`` if needed. Raises :class:`ArchiveMissing`.

    ``ds_students`` and ``ds_teacher`` are evaluated on the validation images. ``ds_final`` has the archive's own test
    split, which is read only for a finished student.
    """
    folder = work / f"images-{sizes.train}-{sizes.validation}-{sizes.unlabeled_pool}-{sizes.teacher_extra}"
    stored = {name: folder / name for name in (STUDENTS, FINAL, POOL, TEACHER_SET)}
    if all((path / INDEX).is_file() for path in stored.values()):
        return stored
    if not ARCHIVE.is_file():
        raise ArchiveMissing(
            f"{ARCHIVE} is missing: a zip of CIFAR-10 as train/CLASS/NNNN.jpg and test/CLASS/NNNN.jpg is needed"
        )
    with zipfile.ZipFile(ARCHIVE) as archive:
        train, test = _members(archive, "train"), _members(archive, "test")
        parts = _shuffled_parts(train, sizes)
        both = [*parts["train"], *parts["teacher_extra"]]
        _store(archive, stored[STUDENTS], parts["train"], parts["validation"])
        _store(archive, stored[FINAL], parts["validation"], [name for names in test.values() for name in names])
        _store(archive, stored[POOL], parts["pool"], parts["validation"], labels="none")
        _store(archive, stored[TEACHER_SET], both, parts["validation"])
    return stored


def cnn_teacher(work: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """Return the CNN teacher of a spec, and the folder of its weights by id; without weights, a teacher to train."""
    if not TEACHER.is_file():
        training = {"epochs": 30, "batch_size": 64, "learning_rate": 2e-3}
        return {"architecture": "resnet18", "weights": "train", "training": training}, {}
    folder = work / "dla34"
    if not (folder / CONFIG).is_file():
        arguments = {"num_classes": NUM_CLASSES, "in_chans": 3}
        module = timm.create_model("dla34", **arguments)
        module.load_state_dict(load_file(TEACHER))
        preprocessing = normalized(MEAN, STD, image_size=IMAGE_SIZE, channels=3)
        save_folder(module, folder, architecture="dla34", arguments=arguments, preprocessing=preprocessing)
    return {"architecture": "dla34", "weights": "mdl_cnn"}, {"mdl_cnn": folder}


def _members(archive: zipfile.ZipFile, split: str) -> dict[str, list[str]]:
    """Return the archive members of a split by class, sorted."""
    found: dict[str, list[str]] = {}
    for name in sorted(archive.namelist()):
        parts = name.split("/")
        if len(parts) == 3 and parts[0] == split and parts[2]:
            found.setdefault(parts[1], []).append(name)
    return found


def _shuffled_parts(images: Mapping[str, Sequence[str]], sizes: SplitSizes) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {"train": [], "validation": [], "pool": [], "teacher_extra": []}
    per_class = {
        "train": sizes.train,
        "validation": sizes.validation,
        "pool": sizes.unlabeled_pool,
        "teacher_extra": sizes.teacher_extra,
    }
    for label, names in sorted(images.items()):
        shuffled = random.Random(f"deal {label}").sample(names, len(names))
        for part, size in per_class.items():
            parts[part] += shuffled[:size]
            shuffled = shuffled[size:]
    return parts


def _store(
    archive: zipfile.ZipFile, target: Path, train: Sequence[str], test: Sequence[str], *, labels: Labels = "auto"
) -> None:
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
