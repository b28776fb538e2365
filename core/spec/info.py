"""What is known of a dataset and of a stored model before any tensor exists.

The API fills these from its rows, the command line from the folders at hand; ``core.resolve.resolver``
resolves a spec with them and nothing else. Free of torch.
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
    """What a model takes from the dataset. ``num_classes`` is None for an unlabelled dataset.

    ``image_size`` is the dataset's own (pixels a side), used where neither spec nor model says one.
    """

    num_classes: int | None
    channels: int
    image_size: int


class DatasetInfo(StrictModel):
    """A ready dataset. ``num_classes`` and ``classes`` are None where it has no labels."""

    num_classes: int | None = Field(default=None, ge=1)
    classes: tuple[str, ...] | None = None
    channels: Channels = 3
    image_size: Positive
    num_train: Annotated[int, Field(ge=0)]
    num_test: Annotated[int, Field(ge=0)]

    def input_info(self) -> InputInfo:
        """The part that shapes models."""
        return InputInfo(num_classes=self.num_classes, channels=self.channels, image_size=self.image_size)


class Normalization(StrictModel):
    """Mean and standard deviation of each channel, on pixel values in 0…1."""

    mean: tuple[float, ...] = Field(min_length=1, max_length=3)
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1, max_length=3)


class ModelInfo(StrictModel):
    """A stored model: uploaded, a job's student or a teacher that a job trained.

    ``arguments`` is everything that ``timm.create_model`` is given, ``num_classes`` and ``in_chans``
    included. ``image_size`` None: the model takes any size.
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
