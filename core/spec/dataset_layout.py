"""How the folders of an uploaded dataset become splits and classes: fields of the API. Imports no torch."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError, from_json

from core.spec.document import StrictModel

Labels = Literal["auto", "none"]  # auto: classes from folders or a table's label column; none: no classes
ClassFrom = Literal["auto", "first", "parent"]

_MAX_FOLDER_LENGTH = 1024
_EXAMPLE = '{"train": "seg_train", "test": "seg_test"}'
_TEXT_EXAMPLE = "train=seg_train,test=seg_test"


def folder_parts(folder: str) -> tuple[str, ...]:
    """Return the names of a folder's path, with composed letters (NFC); ``.`` and empty names are dropped."""
    composed = unicodedata.normalize("NFC", folder.replace("\\", "/"))
    return tuple(part for part in (name.strip() for name in composed.split("/")) if part not in {"", "."})


def _require_folder(folder: str) -> str:
    parts = folder_parts(folder)
    if not parts or ".." in parts:
        raise PydanticCustomError("folder", "Input should be a folder inside of the dataset, such as seg_train")
    return "/".join(parts)


Folder = Annotated[str, Field(max_length=_MAX_FOLDER_LENGTH), AfterValidator(_require_folder)]


class SplitFolders(StrictModel):
    """The folders of the splits: a path inside of the dataset, or a name that occurs at any level."""

    train: Folder = Field(description="Folder of the training images.")
    test: Folder | None = Field(default=None, description="Folder of the test images; null: a fifth of `train`.")


def _parse_splits(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Validate a value of ``splits`` with one error for the whole field; forms and command lines send text."""
    try:
        splits = handler(_split_document(value) if isinstance(value, str) else value)
    except (ValidationError, ValueError):
        message = f"Input should be auto, none, or the folders of the splits, such as {_EXAMPLE} or {_TEXT_EXAMPLE}"
        raise PydanticCustomError("splits", "{message}", {"message": message}) from None
    if isinstance(splits, SplitFolders) and splits.train == splits.test:
        raise PydanticCustomError("splits", "Input should name two different folders")
    return splits


def _split_document(text: str) -> Any:
    """Return the folders in ``{"train": "a"}`` or ``train=a,test=b``; other text unchanged."""
    if text.lstrip().startswith("{"):
        return from_json(text)
    if "=" not in text:
        return text
    pairs = [part.partition("=")[::2] for part in text.split(",")]
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a split is named twice")
    return dict(pairs)


Splits = Annotated[Literal["auto", "none"] | SplitFolders, WrapValidator(_parse_splits)]


class LayoutOptions(StrictModel):
    """The interpretation of a dataset's folders and tables."""

    labels: Labels = Field(
        default="auto",
        description="`auto`: class labels come from the folders or from a table's label column. `none`: the dataset "
        "is unlabeled; folders and label columns are ignored.",
    )
    splits: Splits = Field(
        default="auto",
        description="`auto`: folders named train, test, val, eval, dev and similar are the splits. `none`: no folder "
        "is a split, and a fifth of each class becomes the test split. Else the folders: "
        f"`{_EXAMPLE}`, or as text `{_TEXT_EXAMPLE}`.",
    )
    class_from: ClassFrom = Field(
        default="auto",
        description="The folder that names the class of an image: `first` is the outermost below the split, `parent` "
        "the one that holds the image. `auto` is `first`, unless the folders can be read in two ways.",
    )
