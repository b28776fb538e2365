"""Presentation of a dataset document of the public API and of its profile. Pure functions, no HTTP, no store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlencode

from api.dashboard import formats
from api.datasets.profile import SampleImage, SplitProfile

Document = Mapping[str, Any]
ClassOrder = Literal["name", "most", "fewest"]

MAX_CLASS_ROWS = 200
CLASSES_PER_GALLERY = 12
IMAGES_PER_CLASS = 6  # of a gallery of several classes
MAX_REJECTED_ROWS = 50
UNLABELED = -1
BAR_LENGTH = 100


@dataclass(frozen=True, slots=True)
class Bar:
    """A number with the length of its bar, of :data:`BAR_LENGTH`."""

    count: int
    length: float


@dataclass(frozen=True, slots=True)
class ClassRow:
    """A class with one bar per split."""

    label: int
    name: str
    bars: Sequence[Bar]


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """An image of a gallery. ``image_url`` is the whole image."""

    url: str
    image_url: str
    alt: str
    title: str


@dataclass(frozen=True, slots=True)
class ClassImages:
    """Some images of a class. ``url`` shows more of them."""

    name: str
    num_images: int
    url: str
    images: Sequence[Thumbnail]


@dataclass(frozen=True, slots=True)
class Gallery:
    """Images by class of one split.

    ``label`` is the one class that is shown, None for several. ``previous`` and ``next`` are the addresses of others.
    """

    split: str
    splits: Sequence[tuple[str, str]]  # name and address
    classes: Sequence[ClassImages]
    label: int | None
    all_url: str
    previous: str | None
    next: str | None


@dataclass(frozen=True, slots=True)
class SizeRow:
    """A range of image sizes."""

    text: str
    bar: Bar


def class_name(dataset: Document, label: int) -> str:
    """Return the name of a class by its label."""
    classes = dataset["classes"] or []
    return str(classes[label]) if 0 <= label < len(classes) else "Unlabeled"


def class_rows(
    dataset: Document, profiles: Mapping[str, SplitProfile], order: ClassOrder = "name"
) -> Sequence[ClassRow]:
    """Return all classes with their numbers of images; each split has bars of its own scale."""
    labels = range(len(dataset["classes"])) if dataset["classes"] else [UNLABELED]
    largest = [max(profile.counts.values(), default=0) for profile in profiles.values()]
    rows = [
        ClassRow(
            label,
            class_name(dataset, label),
            [_bar(each.counts.get(label, 0), most) for each, most in zip(profiles.values(), largest, strict=True)],
        )
        for label in labels
    ]
    if order != "name":
        rows.sort(key=lambda row: [bar.count for bar in row.bars], reverse=order == "most")
    return rows


def gallery(
    dataset: Document, profiles: Mapping[str, SplitProfile], *, split: str, label: int | None, first: int
) -> Gallery | None:
    """Return the images of one class, or a few of each of the classes from position ``first``; None without images."""
    if split not in profiles:
        return None
    profile = profiles[split]
    labels = sorted(profile.samples)
    base = f"/datasets/{dataset['id']}"

    def url(**params: Any) -> str:
        given = {name: value for name, value in params.items() if value not in {None, 0} or name == "label"}
        return f"{base}?{urlencode({'split': split, **given})}#images"

    shown = labels[first : first + CLASSES_PER_GALLERY] if label is None else [each for each in labels if each == label]
    limit = IMAGES_PER_CLASS if label is None and len(labels) > 1 else None
    return Gallery(
        split=split,
        splits=[(name, f"{base}?{urlencode({'split': name})}#images") for name in profiles],
        classes=[
            ClassImages(
                class_name(dataset, each),
                profile.counts[each],
                url(label=each),
                [_thumbnail(dataset, split, each, image) for image in profile.samples[each][:limit]],
            )
            for each in shown
        ],
        label=label,
        all_url=url(),
        previous=url(first=max(0, first - CLASSES_PER_GALLERY)) if label is None and first else None,
        next=url(first=first + CLASSES_PER_GALLERY)
        if label is None and first + CLASSES_PER_GALLERY < len(labels)
        else None,
    )


def size_rows(profiles: Mapping[str, SplitProfile]) -> Sequence[SizeRow]:
    """Return the numbers of images by shorter side, all splits together."""
    counts: dict[int, int] = {}
    for profile in profiles.values():
        for limit, count in (profile.sizes.shorter_sides if profile.sizes else {}).items():
            counts[limit] = counts.get(limit, 0) + count
    largest = max(counts.values(), default=0)
    return [SizeRow(_range_text(limit), _bar(counts[limit], largest)) for limit in sorted(counts)]


def size_summary(profiles: Mapping[str, SplitProfile]) -> str | None:
    """Describe the image sizes of the largest split in a sentence; None without images."""
    profile = max(profiles.values(), key=lambda each: each.num_images, default=None)
    if profile is None or profile.sizes is None:
        return None
    sizes, single = profile.sizes, all(each.sizes is None or each.sizes.num_distinct == 1 for each in profiles.values())
    if single:
        return f"All images have {sizes.widths[0]} × {sizes.heights[0]} pixels."
    width, height = (f"{low}–{high} (median {median})" for low, median, high in (sizes.widths, sizes.heights))
    return f"Width {width}, height {height} pixels; {sizes.num_distinct:,} different sizes."


def imbalance(profiles: Mapping[str, SplitProfile]) -> float | None:
    """Return the ratio of the largest to the smallest class of the training images; None with fewer than two."""
    counts = profiles["train"].counts.values() if "train" in profiles else ()
    return max(counts) / min(counts) if len(counts) > 1 else None


def source_text(source: Document) -> str:
    """Describe where a dataset comes from."""
    match source.get("type"):
        case "builtin":
            return f"Built-in {source['name']}"
        case "huggingface":
            parts = [source.get("config"), source.get("split"), source.get("commit") or source.get("revision")]
            return ", ".join([f"Hugging Face {source['repo']}", *(str(part) for part in parts if part)])
        case "url" | "s3":
            return str(source["url"])
        case _:  # sent in one request, or in parts
            return f"File {source['filename']}" if source.get("filename") else "Uploaded file"


def layout_text(source: Document) -> str | None:
    """Describe the options by which the folders became splits and classes; None if all are automatic."""
    parts = []
    if source.get("labels", "auto") == "none":
        parts.append("labels ignored")
    splits = source.get("splits", "auto")
    if isinstance(splits, Mapping):
        parts.append(", ".join(f"{name} from {folder}" for name, folder in splits.items() if folder))
    elif splits == "none":
        parts.append("no folder is a split")
    if source.get("class_from", "auto") != "auto":
        parts.append(f"class from the {source['class_from']} folder")
    return "; ".join(parts) or None


def properties(dataset: Document) -> list[tuple[str, str]]:
    """Return the properties of a dataset as (label, value) pairs; unknown ones are left out."""
    bits, cropped = dataset["value_range"], dataset["cropped_fraction"]
    rows = [
        ("License", dataset["license"] or "not given"),
        ("Source", source_text(dataset["source"])),
        ("Options", layout_text(dataset["source"])),
        ("Channels", {1: "1 (grayscale)", 3: "3 (color)"}.get(dataset["channels"])),
        ("Job image size", dataset["image_size"] and f"{dataset['image_size']} × {dataset['image_size']} by default"),
        ("Bit depth", bits and f"{bits['bits']} bits, brightest value {bits['max']:,}"),
        ("Cropped", cropped and f"{formats.percent(cropped)} lose over a third of the area"),
        ("Stored size", dataset["size_bytes"] and formats.size(dataset["size_bytes"])),
        ("Fingerprint", dataset["fingerprint"]),
        ("Id", dataset["id"]),
    ]
    return [(label, str(value)) for label, value in rows if value]


def num_images(dataset: Document) -> int | None:
    """Return the number of images of all splits; None before the dataset is ready."""
    return sum(split["num_samples"] for split in dataset["splits"].values()) if dataset["splits"] else None


def rejected_rows(rejected: Iterable[Document]) -> Iterator[tuple[str | None, ...]]:
    """Yield the header and the rows of the list of rejected files."""
    names = ("path", "reason", "code")
    yield names
    yield from (tuple(each.get(name) for name in names) for each in rejected)


def rejected_reasons(rejected: Iterable[Document]) -> list[tuple[str, int]]:
    """Return the codes of the rejected files with their numbers, most frequent first."""
    counts: dict[str, int] = {}
    for each in rejected:
        code = str(each.get("code") or each["reason"])
        counts[code] = counts.get(code, 0) + 1
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _bar(count: int, largest: int) -> Bar:
    return Bar(count, round(BAR_LENGTH * count / largest, 1) if largest else 0.0)


def _thumbnail(dataset: Document, split: str, label: int, image: SampleImage) -> Thumbnail:
    return Thumbnail(
        url=f"/datasets/{dataset['id']}/thumbnails/{split}/{image.index}",
        image_url=f"/v1/datasets/{dataset['id']}/images/{split}/{image.index}",
        alt=f"{class_name(dataset, label)}, image {image.index} of {split}",
        title=f"{split} {image.index}: {image.width} × {image.height}, {formats.size(image.size_bytes)}",
    )


def _range_text(limit: int) -> str:
    return f"{limit // 2 + 1}–{limit} px" if limit > 2 else f"up to {limit} px"
