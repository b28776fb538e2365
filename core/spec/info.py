"""Properties of datasets and stored models that a job spec is resolved with.

The API reads them from the database, the command line from folders. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from core.spec.document import StrictModel

Channels = Literal[1, 3]
Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True)
class InputInfo:
    """Dataset properties that shape a model. ``num_classes`` is None for an unlabeled dataset.

    ``image_size`` is the dataset's own, in pixels a side; it is used if neither spec nor model has a size.
    """

    num_classes: int | None
    channels: int
    image_size: int


class DatasetInfo(StrictModel):
    """A ready dataset. ``num_classes`` and ``classes`` are None for an unlabeled one."""

    num_classes: int | None = Field(default=None, ge=1)
    classes: tuple[str, ...] | None = None
    channels: Channels = 3
    image_size: Positive
    num_train: Annotated[int, Field(ge=0)]
    num_test: Annotated[int, Field(ge=0)]

    def input_info(self) -> InputInfo:
        """The properties that shape models."""
        return InputInfo(num_classes=self.num_classes, channels=self.channels, image_size=self.image_size)


class Normalization(StrictModel):
    """Mean and standard deviation of each channel, for pixel values in [0, 1]."""

    mean: tuple[float, ...] = Field(min_length=1, max_length=3)
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1, max_length=3)


class ModelInfo(StrictModel):
    """A stored model: an upload, a job's student or a teacher that a job trained.

    ``arguments`` are all keyword arguments of ``timm.create_model``, with ``num_classes`` and ``in_chans``.
    ``image_size`` is None if the model takes any size.
    """

    architecture: str
    arguments: dict[str, Any]
    num_classes: Annotated[int, Field(ge=0)]
    channels: Positive
    image_size: Positive | None = None
    parameters: Annotated[int, Field(ge=0)]
    size_bytes: Annotated[int, Field(ge=0)]
    classes: tuple[str, ...] | None = None
    normalization: Normalization | None = None
