"""Labels of WebDataset: a sample is the files of one folder whose names are equal up to the first dot.

``NAME.cls`` holds the label as text. ``NAME.json`` holds an object with a field such as ``label``, and the name of the
class in ``class_name`` if the label is an index. ``classes.txt`` has the names of the classes by index, one a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from core.ingest.paths import SIDECAR_SUFFIX, NotAccepted, clean_label, not_an_image
from core.ingest.source_files import LABEL_NAMES, SourceFile

CLS_SUFFIX = ".cls"
_LABEL_FIELDS = (*LABEL_NAMES, "cls")
_NAME_FIELDS = ("class_name", "label_name", "classname")
_MAX_LABEL = 2**31


def sample_key(path: str) -> str:
    """Return the key of a sample: the path up to the first dot of the file name."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{name[:1]}{name[1:].partition('.')[0]}"


@dataclass(frozen=True, slots=True)
class _Sidecar:
    """A JSON file; ``problem`` is why it has no usable label."""

    path: str
    label: int | str | None = None
    name: str | None = None
    problem: NotAccepted | None = None


class Sidecars:
    """Collects the label files of samples. Later shards may repeat keys of other folders, not of their own."""

    def __init__(self) -> None:
        self._cls: dict[str, str] = {}
        self._cls_keys: dict[str, str] = {}
        self._json: dict[str, _Sidecar] = {}
        self._image_keys: set[str] = set()
        self._class_names: tuple[str, ...] | None = None
        self._class_names_path = ""

    @property
    def has_cls(self) -> bool:
        """Whether there is a ``.cls`` file."""
        return bool(self._cls)

    def note_image(self, path: str) -> None:
        """Note an image, whose JSON file is then its sidecar."""
        self._image_keys.add(sample_key(path))

    def add_cls(self, path: str, text: str) -> None:
        """Add a ``.cls`` file. Raises :class:`NotAccepted`."""
        label = clean_label(text)
        stem = path[: -len(CLS_SUFFIX)]
        if stem in self._cls:
            raise NotAccepted("an earlier file has the same path", code="duplicate_path")
        self._cls[stem] = label
        self._cls_keys[sample_key(path)] = label

    def add_json(self, path: str, content: bytes) -> None:
        """Add a JSON file; whether it belongs to an image is known at the end."""
        try:
            label, name = _label_of(json.loads(content))
            self._json.setdefault(sample_key(path), _Sidecar(path, label, name))
        except NotAccepted as error:
            self._json.setdefault(sample_key(path), _Sidecar(path, problem=error))
        except (ValueError, RecursionError) as error:
            reason = f"the label file cannot be read: {' '.join(str(error).split())[:200]}"
            problem = NotAccepted(reason, code="label_file_unreadable")
            self._json.setdefault(sample_key(path), _Sidecar(path, problem=problem))

    def add_class_names(self, path: str, text: str) -> None:
        """Add ``classes.txt``. Raises :class:`NotAccepted` if two files differ, or names repeat."""
        names = tuple(clean_label(line) for line in text.splitlines() if line.strip())
        if self._class_names is not None and names != self._class_names:
            raise NotAccepted(f"its names differ from those of {self._class_names_path}", code="label_file_unclear")
        if len(set(names)) < len(names) or len(names) < 2:
            raise NotAccepted("it must name at least two classes, each once", code="label_file_unclear")
        self._class_names, self._class_names_path = names, path

    def rejected(self) -> Iterator[SourceFile]:
        """Iterate over the JSON files that belong to no image, and those of images that cannot be read."""
        for key, sidecar in self._json.items():
            if key not in self._image_keys:
                error = not_an_image()
            elif sidecar.problem is not None:
                error = sidecar.problem
            else:
                continue
            yield SourceFile(sidecar.path, reason=str(error), code=error.code)

    def label(self, source: str) -> str | None:
        """Return the label of an image as text: of its ``.cls`` file, or else of its JSON file."""
        key = sample_key(source)
        text = self._cls.get(source.rpartition(".")[0]) or self._cls_keys.get(key)
        if text is None and key in self._json and self._json[key].label is not None:
            text = str(self._json[key].label)
        return text

    def used_paths(self, sources: Iterable[str]) -> list[str]:
        """Return the files that label these images."""
        keys = {sample_key(source) for source in sources}
        found = [f"{stem}{CLS_SUFFIX}" for stem in self._cls]
        return found + [each.path for key, each in self._json.items() if key in keys and each.label is not None]

    def class_names(self, labels: Iterable[int]) -> tuple[str, ...] | None:
        """Return the names of the classes by index: of ``classes.txt``, or of the JSON files; None without names."""
        if self._class_names is not None:
            return self._class_names
        named = {each.label: each.name for each in self._json.values() if each.name is not None}
        used = set(labels)
        if not used or not all(label in named for label in used) or min(used) < 0:
            return None
        names = tuple(str(named.get(label, label)) for label in range(max(used) + 1))
        return names if len(set(names)) == len(names) else None

    @property
    def class_names_path(self) -> str:
        """Path of the file with the names of the classes; empty without one."""
        return self._class_names_path


def is_sidecar(path: str) -> bool:
    """Whether a path is that of a JSON file."""
    return path.casefold().endswith(SIDECAR_SUFFIX)


def _label_of(document: Any) -> tuple[int | str | None, str | None]:
    """Return the label of a JSON file and the name of its class; None for what it does not have."""
    if not isinstance(document, Mapping):
        return None, None
    label = next((document[field] for field in _LABEL_FIELDS if document.get(field) is not None), None)
    if isinstance(label, bool):
        label = str(label).lower()
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, str):
        label = clean_label(label)
    if label is not None and (not isinstance(label, str | int) or (isinstance(label, int) and abs(label) > _MAX_LABEL)):
        raise NotAccepted("its label is no whole number, text or boolean", code="label_file_unclear")
    name = next((document[field] for field in _NAME_FIELDS if isinstance(document.get(field), str)), None)
    return label, clean_label(name) if name is not None and isinstance(label, int) else None
