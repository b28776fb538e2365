"""The ordered plan of the quality benchmark: which runs there are, and which one is next.

Every arm is tuned alike: its learning rates are tried with the tuning seed, and the one with the best top-1 on the
validation images is used for its seeds. The order puts first what most comparisons need: teachers, then tuning and
seeds of `scratch`, `kd` and `deit`, then the other arms. The last seeds of the other arms come after all arms have
three.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from benchmarks.quality.arms import KD, SCRATCH, Arm, arms
from benchmarks.quality.protocol import Document, Protocol
from benchmarks.quality.results import Result, Results
from core.spec import parse_job_spec

FIRST_METHODS = (SCRATCH, KD, "deit")
_FIRST_SEEDS = 3


@dataclass(frozen=True, slots=True)
class Step:
    """One training of the plan: a teacher (``arm`` is None), or an arm with a seed.

    ``learning_rate`` is None where it is chosen by the arm's tuning.
    """

    name: str
    arm: Arm | None
    seed: int = 0
    learning_rate: float | None = None

    @property
    def is_tuning(self) -> bool:
        """Whether the run only serves to choose a learning rate."""
        return self.arm is not None and self.learning_rate is not None


@dataclass(frozen=True, slots=True)
class Run:
    """A training that can start: everything that a worker process has to know.

    ``models`` maps the ids of weights in the document to the names of the runs that train them. ``is_tested``: the
    finished network is evaluated on the test split; ``with_neighbors``: also by its nearest neighbors.
    ``saves_weights``: its weights are inputs of other runs.
    """

    name: str
    document: Document
    digest: str
    models: Mapping[str, str] = field(default_factory=dict)
    peer: str | None = None
    is_tested: bool = False
    with_neighbors: bool = False
    saves_weights: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)


class Plan:
    """All steps in order, and the results so far."""

    def __init__(self, protocol: Protocol, results: Results, *, methods: Sequence[str] | None = None) -> None:
        self.protocol = protocol
        self.results = results
        self.arms = arms(protocol, methods)
        self._by_name = {(arm.track, arm.name): arm for arm in self.arms}
        self._fixed: dict[Step, Run] = {}  # runs that depend on no result

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """All steps; a step that needs another comes after it."""
        return tuple(dict.fromkeys(self._ordered()))

    def tuning(self, arm: Arm) -> list[Step]:
        """Return the steps that choose the learning rate of an arm."""
        return [
            Step(f"{arm.key}-tune-{rate:g}", arm, self.protocol.tuning_seed, rate)
            for rate in self.protocol.learning_rates
        ]

    def seeds(self, arm: Arm, first: int = 0, end: int | None = None) -> list[Step]:
        """Return the steps of an arm's seeds ``first`` to ``end``."""
        count = self.protocol.tracks[arm.track].seeds
        return [Step(f"{arm.key}-seed-{seed}", arm, seed) for seed in range(count)[first:end]]

    def _ordered(self) -> Iterator[Step]:
        teachers = [Step(f"teacher-{name}", None) for name in self.protocol.teachers]
        yield from (step for step in teachers if step.name != "teacher-vit4")
        first = [arm for arm in self.arms if arm.name in FIRST_METHODS and arm.track != "patch4"]
        groups = [first]
        for track, kinds in (
            ("vit", ("kd", "method")),
            ("vit", ("unlabeled", "control", "assistant")),
            ("cnn", ("kd", "method")),
        ):
            groups.append([arm for arm in self.arms if arm.track == track and arm.kind in kinds and arm not in first])
        for group in groups:
            yield from (step for arm in group for step in self.tuning(arm))
            for seed in range(_FIRST_SEEDS):
                yield from (step for arm in group for step in self.seeds(arm, seed, seed + 1))
            if group is first:
                yield from (step for arm in group for step in self.seeds(arm))
        yield from (step for group in groups for arm in group for step in self.seeds(arm))
        peers = [arm for arm in self.arms if arm.kind == "peer" and arm.is_installed]
        yield from (step for arm in peers for step in (*self.tuning(arm), *self.seeds(arm, 0, _FIRST_SEEDS)))
        yield from teachers
        patch4 = [arm for arm in self.arms if arm.track == "patch4"]
        yield from (step for arm in patch4 for step in self.tuning(arm))
        yield from (step for arm in patch4 for step in self.seeds(arm))

    # --- what a step trains ---------------------------------------------------------------------

    def learning_rate(self, arm: Arm) -> float | None:
        """Return the learning rate with the best top-1 on the validation images; None until all are tried."""
        found = {step: self.result(step) for step in self.tuning(arm)}
        if any(result is None for result in found.values()):
            return None
        scores = {
            step.learning_rate: result["validation_top1"]
            for step, result in found.items()
            if result is not None and result["status"] == "succeeded"
        }
        return max(scores, key=lambda rate: (scores[rate], -(rate or 0))) if scores else None

    def is_hopeless(self, arm: Arm) -> bool:
        """Whether the arm failed with every learning rate, so that it has no seeds."""
        found = [self.result(step) for step in self.tuning(arm)]
        return all(result is not None and result["status"] != "succeeded" for result in found)

    def run(self, step: Step) -> Run | None:
        """Return the training of a step; None while its learning rate, or that of an input, is not chosen."""
        if step not in self._fixed:
            run = self._teacher_run(step) if step.arm is None else self._arm_run(step, step.arm)
            depends = step.arm is not None and (step.arm.needs_trained_student or not step.is_tuning)
            if run is None or depends:
                return run
            self._fixed[step] = run
        return self._fixed[step]

    def _arm_run(self, step: Step, arm: Arm) -> Run | None:
        rate = step.learning_rate or self.learning_rate(arm)
        if rate is None:
            return None
        models = {f"mdl_{name}": f"teacher-{name}" for name in arm.teachers}
        if arm.needs_trained_student:
            trained = self._trained_student(arm, step)
            if trained is None:
                return None
            models["job_scratch"] = trained.name
        document = arm.document(self.protocol, learning_rate=rate, seed=step.seed)
        return Run(
            step.name,
            document,
            self._digest(document, models, arm.peer),
            models,
            peer=arm.peer,
            is_tested=not step.is_tuning,
            with_neighbors=not step.is_tuning and (arm.method in {SCRATCH, KD} or arm.is_headless),
            saves_weights=arm.name == SCRATCH and arm.track == "vit",
            details={"arm": arm.name, "track": arm.track, "method": arm.method, "kind": arm.kind, "seed": step.seed,
                     "teachers": list(arm.teachers), "learning_rate": rate, "role": _role(step)},
        )  # fmt: skip

    def _teacher_run(self, step: Step) -> Run:
        name = step.name.removeprefix("teacher-")
        document = self.protocol.teachers[name] | {"export": ["safetensors"]}
        models = {teacher["weights"]: "teacher-cnn" for teacher in document.get("teachers", ())}
        details = {"role": "teacher", "teacher": name, "method": document["method"]["name"]}
        digest = self._digest(document, models, None)
        return Run(step.name, document, digest, models, is_tested=True, saves_weights=True, details=details)

    def _trained_student(self, arm: Arm, step: Step) -> Step | None:
        """Return the step of `scratch` with the same seed; the one with the best learning rate for the tuning seed."""
        scratch = self._by_name[arm.track, SCRATCH]
        rate = self.learning_rate(scratch)
        if rate is None:
            return None
        if step.is_tuning:
            return next(tuned for tuned in self.tuning(scratch) if tuned.learning_rate == rate)
        return self.seeds(scratch)[step.seed]

    def _digest(self, document: Document, models: Mapping[str, str], peer: str | None) -> str:
        """Return a SHA-256 of everything that defines a run: its spec with all defaults, and those of its inputs.

        Options that are off do not count, so that a new one leaves the digests of earlier runs as they are.
        """
        inputs = {reference: self.digest(self.step(name)) for reference, name in sorted(models.items())}
        spec = _enabled(parse_job_spec(document).model_dump(mode="json"))
        fields = {"spec": spec, "inputs": inputs, "peer": peer, "images": str(self.protocol.sizes)}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _steps_by_name(self) -> dict[str, Step]:
        return {step.name: step for step in self.steps}

    def step(self, name: str) -> Step:
        """Return a step by its name."""
        return self._steps_by_name[name]

    def digest(self, step: Step) -> str | None:
        """Return the digest of a step's run; None while it is not defined."""
        run = self.run(step)
        return None if run is None else run.digest

    def result(self, step: Step) -> Result | None:
        """Return the result of a step, if it is finished."""
        digest = self.digest(step)
        return None if digest is None else self.results.get(step.name, digest)

    # --- what is next ---------------------------------------------------------------------------

    def pending(self, only: Collection[str] = ()) -> list[Step]:
        """Return the steps without a result, in order; of the arms, methods or teachers in ``only``, if any."""
        wanted = {step for step in self.steps if _is_selected(step, only)}
        for step in self.steps:  # and what they need
            if step in wanted and step.arm is not None:
                wanted |= self._needed(step.arm)
        return [step for step in self.steps if step in wanted and not self._is_finished(step)]

    def _is_finished(self, step: Step) -> bool:
        if step.arm is not None and not step.is_tuning and self.is_hopeless(step.arm):
            return True
        return self.result(step) is not None

    def _needed(self, arm: Arm) -> set[Step]:
        """Return the steps that the runs of an arm depend on."""
        names = {f"teacher-{name}" for name in arm.teachers}
        if names:
            names.add("teacher-cnn")
        found = {self.step(name) for name in names} | set(self.tuning(arm))
        if arm.needs_trained_student:
            scratch = self._by_name[arm.track, SCRATCH]
            found |= {*self.tuning(scratch), *self.seeds(scratch)}
        return found


def _is_selected(step: Step, only: Collection[str]) -> bool:
    if not only:
        return True
    if step.arm is None:
        return step.name in only
    return bool({step.arm.name, step.arm.key, step.arm.method, step.arm.track} & set(only))


def _role(step: Step) -> str:
    return "tuning" if step.is_tuning else "seed"


def _enabled(value: Any) -> Any:
    """Return a JSON document without the fields that are null, false or empty, at any depth; zeros stay."""
    if isinstance(value, dict):
        fields = {name: _enabled(field) for name, field in value.items()}
        return {name: field for name, field in fields.items() if field or (field == 0 and field is not False)}
    return [_enabled(item) for item in value] if isinstance(value, list) else value
