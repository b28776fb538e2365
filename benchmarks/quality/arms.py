"""The arms of the quality benchmark: every registered method, and what it is compared with.

An arm is one way to train the student of a track. A method of the registry is an arm without any entry here: its
:class:`~core.spec.methods.Requirements` select its tracks and its teachers. What they cannot express, such as teachers
of a special kind or a parameter that equalizes the budget, goes into :data:`SETTINGS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import cycle, islice
from typing import Any, Literal

from benchmarks.cifar10 import POOL, STUDENTS, STUDENTS_90
from benchmarks.quality.protocol import Document, Protocol, Track
from core.spec import METHODS
from core.spec.methods import Family, Requirements

Kind = Literal["method", "kd", "control", "assistant", "unlabeled", "peer"]

SCRATCH, KD = "scratch", "kd"
PATCH4_METHODS = (SCRATCH, KD, "manifold", "vitkd", "masked_teacher")
"""Methods that are also trained with 64 patches: 16 leave little to compare or to mask."""
_TRANSFORMER_OUTPUTS = {"attention", "attentions", "patch tokens"}  # a CNN teacher has none of these


@dataclass(frozen=True, slots=True)
class Setting:
    """What a method needs in this benchmark beyond its requirements.

    ``teachers`` are names of the protocol's teachers, in place of those that the requirements select. ``parameters``
    are values of the method's parameters.
    """

    teachers: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)


def settings(protocol: Protocol, family: Family) -> Mapping[str, Setting]:
    """Return the settings of methods that need any with a student of this family."""
    # By default half of the pool is selected, which is more images than the other arms have.
    found = {"attention_probe": Setting(parameters={"num_select": protocol.sizes.train})}
    if family == "cnn":  # its defaults are those of a ViT
        found["vkd"] = Setting(parameters={"token": False, "stem": "patch"})
    return found


@dataclass(frozen=True, slots=True)
class Arm:
    """One row of the table.

    ``name`` is unique in its track. ``baseline`` is the name of the `kd` arm that it is compared with, None for arms
    without one. ``unlabeled`` is a dataset whose images are read too, without labels; the number of steps is that of
    the other arms. ``peer`` names a loss of another package, which replaces the method's.
    """

    track: str
    name: str
    method: str
    kind: Kind = "method"
    teachers: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    dataset: str = STUDENTS
    unlabeled: str | None = None
    baseline: str | None = None
    peer: str | None = None

    @property
    def key(self) -> str:
        """Name in files."""
        return f"{self.track}-{self.name.replace(', ', '-').replace(' ', '-')}"

    @property
    def is_headless(self) -> bool:
        """Whether the student has no classifier, so that its accuracy is that of its nearest neighbors."""
        return METHODS[self.method].params.info.needs.headless

    @property
    def is_installed(self) -> bool:
        """Whether the packages of the arm are installed; those of some peers are optional."""
        return self.peer is None or find_spec(self.peer.partition(" ")[0]) is not None

    @property
    def needs_trained_student(self) -> bool:
        """Whether the student starts from the weights of `scratch` with the same seed."""
        return "weights" in METHODS[self.method].params.info.needs.student

    def document(self, protocol: Protocol, *, learning_rate: float, seed: int) -> Document:
        """Return the arm's job spec."""
        track = protocol.tracks[self.track]
        params = METHODS[self.method].params
        method = {"name": self.method, **params.info.example, **self.parameters}
        method |= dict.fromkeys(params.model_validate(method).datasets(), POOL)
        student = dict(track.student)
        if self.needs_trained_student:
            student["weights"] = "job_scratch"
        training = protocol.training(track, learning_rate=learning_rate, seed=seed)
        unlabeled = {}
        if self.unlabeled is not None:
            unlabeled = {"unlabeled_dataset": self.unlabeled}
            training["epochs"] = protocol.epochs_with_pool(training["epochs"])
        return {
            "dataset": self.dataset,
            **unlabeled,
            "teachers": [{"weights": f"mdl_{name}"} for name in self.teachers],
            "student": student,
            "method": method,
            "training": training,
            "export": ["safetensors"],
        }


def arms(protocol: Protocol, methods: Iterable[str] | None = None) -> tuple[Arm, ...]:
    """Return all arms, each `kd` arm before the arms that are compared with it."""
    names = tuple(methods or METHODS)
    found: dict[tuple[str, str], Arm] = {}
    for arm in _candidates(protocol, names):
        if arm.teachers and arm.baseline is None and arm.method != KD:
            baseline = kd_arm(arm.track, arm.teachers)
            found.setdefault((arm.track, baseline.name), baseline)
            found.setdefault((arm.track, arm.name), replace(arm, baseline=baseline.name))
        found.setdefault((arm.track, arm.name), arm)
    return tuple(found.values())


def kd_arm(track: str, teachers: tuple[str, ...]) -> Arm:
    """Return `kd` from the given teachers."""
    name = KD if teachers == ("cnn",) else f"{KD}, {' and '.join(teachers)}"
    return Arm(track, name, KD, kind="kd", teachers=teachers)


def _candidates(protocol: Protocol, methods: tuple[str, ...]) -> Iterator[Arm]:
    """Yield all arms, without the `kd` arms of unusual teachers."""
    for key, track in protocol.tracks.items():
        special = settings(protocol, track.family)
        for method in PATCH4_METHODS if key == "patch4" else methods:
            needs = METHODS[method].params.info.needs
            if _accepts(needs, track.family):
                yield _method_arm(key, track, method, special.get(method, Setting()))
    yield from _controls()
    yield from _peers()


def _method_arm(key: str, track: Track, method: str, setting: Setting) -> Arm:
    needs = METHODS[method].params.info.needs
    teachers = setting.teachers or tuple(track.teachers[family] for family in teacher_families(needs))
    if key == "patch4" and teachers:
        teachers = (track.teachers["transformer"],)
    if method == KD:
        return kd_arm(key, teachers)
    return Arm(key, method, method, teachers=teachers, parameters=setting.parameters)


def teacher_families(needs: Requirements) -> tuple[Family, ...]:
    """Return the families of the fewest teachers: a CNN first where it is possible; several alternate."""
    if needs.max_teachers == 0 or not needs.teacher:
        return ()
    excluded = needs.teacher_families and "cnn" not in needs.teacher_families
    first: Family = "transformer" if excluded or _TRANSFORMER_OUTPUTS & set(needs.teacher) else "cnn"
    second: Family = "cnn" if first == "transformer" else "transformer"
    return tuple(islice(cycle((first, second)), max(1, needs.min_teachers)))


def _accepts(needs: Requirements, family: Family) -> bool:
    return not needs.student_families or family in needs.student_families


def _controls() -> Iterator[Arm]:
    """Yield arms that separate a method's loss from its other effects."""
    default = METHODS["deit"].params.model_fields["distillation_type"].default
    other = {"hard": "soft", "soft": "hard"}[default]
    labels_only = {"label_weight": 1.0, "logits_weight": 0.0, "relation_weight": 0.0, "hidden_weight": 0.0}
    yield Arm(
        "vit",
        f"deit, {other}",
        "deit",
        kind="control",
        teachers=("cnn",),
        parameters={"distillation_type": other},
    )
    yield Arm("vit", "kd, alpha 0.5", KD, kind="control", teachers=("cnn",), parameters={"alpha": 0.5}, baseline=KD)
    yield Arm("vit", "minivit, labels only", "minivit", kind="control", teachers=("vit",), parameters=labels_only)
    yield Arm("vit", "scratch, 90 percent", SCRATCH, kind="control", dataset=STUDENTS_90)
    yield Arm("vit", "kd, assistant", KD, kind="assistant", teachers=("assistant",), baseline=KD)
    yield Arm("vit", "kd, unlabeled pool", KD, kind="unlabeled", teachers=("cnn",), unlabeled=POOL, baseline=KD)


def _peers() -> Iterator[Arm]:
    """Yield the losses of other packages. Their teacher, student and training are those of the method here."""
    for peer, method, parameters in (
        ("timm logit", KD, {}),
        ("timm feature", KD, {}),
        ("timm token", "deit", {"distillation_type": "soft"}),
        ("torchdistill kd", KD, {}),
    ):
        yield Arm("vit", peer, method, kind="peer", teachers=("cnn",), parameters=parameters, baseline=KD, peer=peer)
