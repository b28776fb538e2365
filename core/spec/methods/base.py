"""Base classes of method parameters, and the catalog entry of a method: description and requirements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from core.spec.document import StrictModel

Family = Literal["transformer", "cnn", "hybrid", "mlp"]

_LABEL_TERM_WEIGHTS = frozenset({"alpha", "label_weight"})  # parameters that weight the term of the labels, and no more
_READS_DATASET: Final = "reads a dataset"  # metadata of fields that name a dataset
DatasetReference = Annotated[str, Field(min_length=1, max_length=200), _READS_DATASET]


@dataclass(frozen=True, slots=True)
class Requirements:
    """Requirements of a method on a job.

    ``max_teachers`` None means any number. ``teacher`` and ``student`` list the outputs that the networks must have.
    """

    min_teachers: int = 1
    max_teachers: int | None = 1
    teacher: tuple[str, ...] = ("logits",)
    student: tuple[str, ...] = ("logits",)
    student_families: tuple[Family, ...] = ()  # empty: any
    teacher_families: tuple[Family, ...] = ()
    labels: bool = True
    headless: bool = False  # the student has no classifier, and the teachers' classes are irrelevant
    matched_grids: bool = False  # given teachers run at the image size at which their patch grid fits the student's


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """A method's entry in the catalog and on its page in ``docs/methods``.

    ``caches`` lists the teacher outputs that are cached per view; empty: none. ``formula`` is the loss, in one or more
    sentences. ``deviations`` lists the differences from the paper and its official code, one or more sentences each.
    """

    summary: str
    paper: str
    year: int
    when: str
    needs: Requirements
    caches: tuple[str, ...] = ()
    example: Mapping[str, Any] = field(default_factory=dict)  # values of parameters without a default
    formula: str = ""
    deviations: tuple[str, ...] = ()


class MethodParams(StrictModel):
    """Base of every method's parameters; ``name`` is the discriminator in JSON."""

    info: ClassVar[MethodInfo]
    label_free: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Values of parameters, by name, with which a method that needs labels reads none; the first is the one to set.

    With them the class head learns from the teacher alone. Empty: the method reads labels whatever its parameters."""
    name: str

    @property
    def reads_labels(self) -> bool:
        """Whether the training reads labels, with these parameters. Otherwise the dataset may have none."""
        if not self.info.needs.labels:
            return False
        return not self.label_free or bool(self.label_free_changes())

    def label_free_changes(self) -> dict[str, Any]:
        """Parameters to change, with their new values, so that labels are not read; empty if there are none."""
        return {name: values[0] for name, values in self.label_free.items() if getattr(self, name) not in values}

    @property
    def needs_all_labels(self) -> bool:
        """Whether the training reads the label of every image. Otherwise images without labels can be added.

        Those then have no part in the term of the labels.
        """
        changes = set(self.label_free_changes())
        return self.reads_labels and not (changes and changes <= _LABEL_TERM_WEIGHTS)

    @property
    def held_out_fraction(self) -> float:
        """Fraction of the training split that is held out of training, for a choice in ``Method.finalize``."""
        return 0.0

    @property
    def keeps_shape(self) -> bool:
        """Whether the exported model's architecture and arguments are known before the training."""
        return True

    def datasets(self) -> dict[str, str]:
        """Datasets that the method reads in addition to the job's own, by the name of the field."""
        marked = (name for name, field in type(self).model_fields.items() if _READS_DATASET in field.metadata)
        return {name: getattr(self, name) for name in marked}
