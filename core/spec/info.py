"""Properties of datasets and stored models that a job spec is resolved with.

The API reads them from the database, the command line from folders. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from core.job_warnings import JobWarning
from core.spec.document import StrictModel

Channels = Literal[1, 3]
NormalizationSource = Literal["request", "architecture", "default", "job"]
Positive = Annotated[int, Field(ge=1)]
_MIN_STD = 0.5 / 255  # a model for pixel values in 0…255 has mean 0 and std 1/255


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
    license: str | None = None

    def input_info(self) -> InputInfo:
        """The properties that shape models."""
        return InputInfo(num_classes=self.num_classes, channels=self.channels, image_size=self.image_size)


class Normalization(StrictModel):
    """Mean and standard deviation of each channel, for pixel values in [0, 1]."""

    mean: tuple[float, ...] = Field(min_length=1, max_length=3)
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1, max_length=3)


class UploadNormalization(Normalization):
    """The normalization of an upload, checked for statistics of other pixel values than [0, 1]."""

    # Without `min_length`: pydantic would report it too where an item is not above 0.
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(max_length=3, json_schema_extra={"minItems": 1})

    @field_validator("mean")
    @classmethod
    def _require_mean_of_unit_pixels(cls, mean: tuple[float, ...]) -> tuple[float, ...]:
        if max(mean) > 1:
            raise _unit_pixels_error("mean", mean)
        if min(mean) < 0:
            raise PydanticCustomError("normalization", "a mean of pixel values in 0…1 is not negative")
        return mean

    @field_validator("std")
    @classmethod
    def _require_std_of_unit_pixels(cls, std: tuple[float, ...]) -> tuple[float, ...]:
        if max(std, default=1) > 1:
            raise _unit_pixels_error("std", std)
        if std and min(std) < _MIN_STD:
            raise PydanticCustomError(
                "normalization",
                "std {std} is less than one of 256 gray levels; give that of pixel values in 0…1",
                {"std": min(std)},
            )
        return std

    @model_validator(mode="after")
    def _require_equal_lengths(self) -> Self:
        if len(self.mean) != len(self.std):
            raise PydanticCustomError(
                "normalization",
                "mean has {mean} values and std has {std}; give one of each for every channel",
                {"mean": len(self.mean), "std": len(self.std)},
            )
        return self

    def channels_error(self, channels: int) -> str | None:
        """Return why the statistics do not fit a model's number of channels; None if they do."""
        if len(self.mean) in {1, channels} or (channels == 1 and len(self.mean) == 3):
            return None
        return f"{len(self.mean)} values are given for {channels} channels; give {channels}, or one for all"


def _unit_pixels_error(name: str, values: tuple[float, ...]) -> PydanticCustomError:
    divided = [round(value / 255, 4) for value in values]
    return PydanticCustomError(
        "normalization",
        "{name} {values} is that of pixel values in 0…255; divided by 255 it is {divided}",
        {"name": name, "values": str(list(values)), "divided": str(divided)},
    )


class ModelInfo(StrictModel):
    """A stored model: an upload, a job's student or a teacher that a job trained.

    ``arguments`` are all keyword arguments of ``timm.create_model``, with ``num_classes`` and ``in_chans``.
    ``image_size`` is None if the model takes any size. ``warnings`` are those of an upload's check.
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
    normalization_source: NormalizationSource | None = None
    warnings: tuple[JobWarning, ...] = ()
