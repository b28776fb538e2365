"""The pictures and teachers of the quality benchmark: CIFAR-10, dealt once by a fixed seed.

No picture of the test split is in any dataset that a method sees or that anything is chosen on.
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
from core.ingest.source_files import Labels
from core.models.preprocessing import normalized
from core.models.weights import CONFIG, save_folder

ARCHIVE = ROOT.parent / "shared" / "data" / "cifar10-images.zip"
TEACHER = ROOT.parent / "shared" / "models" / "cifar10-dla34.safetensors"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of the teacher's training, as its README says
IMAGE_SIZE, NUM_CLASSES = 32, 10

STUDENTS, FINAL, POOL, LESSONS = "ds_students", "ds_final", "ds_pool", "ds_lessons"


@dataclass(frozen=True, slots=True)
class Deal:
    """How many pictures of each class of the training archive go where; the four parts share none."""

    train: int
    validation: int
    pool: int
    lessons: int  # for the ViT teacher, beside `train`


class NothingToMeasureOn(Exception):
    """The archive is not there; the message says where it is looked for."""


def deal_pictures(work: Path, deal: Deal) -> dict[str, Path]:
    """The stored datasets by id, made in ``work`` unless they are there. Raises :class:`NothingToMeasureOn`.

    ``ds_students`` and ``ds_lessons`` are evaluated on the validation pictures; the archive's own test split
    is that of ``ds_final``, which is opened only once a student is finished.
    """
    folder = work / f"pictures-{deal.train}-{deal.validation}-{deal.pool}-{deal.lessons}"
    stored = {name: folder / name for name in (STUDENTS, FINAL, POOL, LESSONS)}
    if all((path / INDEX).is_file() for path in stored.values()):
        return stored
    if not ARCHIVE.is_file():
        raise NothingToMeasureOn(
            f"{ARCHIVE} is not there: a zip of CIFAR-10 as train/CLASS/NNNN.jpg and test/CLASS/NNNN.jpg is needed"
        )
    with zipfile.ZipFile(ARCHIVE) as archive:
        train, test = _members(archive, "train"), _members(archive, "test")
        hands = _dealt(train, deal)
        both = [*hands["train"], *hands["lessons"]]
        _store(archive, stored[STUDENTS], hands["train"], hands["validation"])
        _store(archive, stored[FINAL], hands["validation"], [name for names in test.values() for name in names])
        _store(archive, stored[POOL], hands["pool"], hands["validation"], labels="none")
        _store(archive, stored[LESSONS], both, hands["validation"])
    return stored


def cnn_teacher(work: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """The CNN teacher of a spec, and the folder of its weights by id; one to be trained where there are none."""
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
    """The pictures of a split by class, in order."""
    found: dict[str, list[str]] = {}
    for name in sorted(archive.namelist()):
        parts = name.split("/")
        if len(parts) == 3 and parts[0] == split and parts[2]:
            found.setdefault(parts[1], []).append(name)
    return found


def _dealt(pictures: Mapping[str, Sequence[str]], deal: Deal) -> dict[str, list[str]]:
    hands: dict[str, list[str]] = {"train": [], "validation": [], "pool": [], "lessons": []}
    sizes = {"train": deal.train, "validation": deal.validation, "pool": deal.pool, "lessons": deal.lessons}
    for label, names in sorted(pictures.items()):
        shuffled = random.Random(f"deal {label}").sample(names, len(names))
        for hand, size in sizes.items():
            hands[hand] += shuffled[:size]
            shuffled = shuffled[size:]
    return hands


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
    ingest_folder(loose, target, labels=labels)
    shutil.rmtree(loose)
