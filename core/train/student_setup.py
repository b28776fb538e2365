"""The student of a job and the setup of its training, before teachers are added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from core.data.pixels import Pixels
from core.methods import MethodContext, build_method, plan_student_variant
from core.models.build import all_stored_models, build_student, stored_models
from core.models.built import BuiltModel
from core.models.plan import model_inputs, plan_student
from core.models.structure import structure_of
from core.seeds import derive_seed
from core.spec import JobSpec
from core.train.context import RunContext
from core.train.trainer import TrainingSetup
from core.train.training_set import TrainingSet, labeled_fraction


def build_job_student(
    spec: JobSpec, context: RunContext, folders: Mapping[str, Path], teachers: Sequence[BuiltModel]
) -> BuiltModel:
    """Build the student of a resolved spec, in the variant that its method trains.

    ``folders`` has the folder of each stored model that the spec names.
    """
    requested = plan_student(
        spec.student,
        model_inputs(spec, context.input_info, models=all_stored_models(spec, folders)),
        image_size=spec.training.image_size,
        models=stored_models(spec.student, folders),
    )
    plan = plan_student_variant(
        spec.method, requested, teachers=lambda: [structure_of(teacher) for teacher in teachers]
    )
    torch.manual_seed(derive_seed(spec.training.seed, "student"))
    return build_student(plan, drop_path=spec.training.drop_path, folders=folders)


def student_training_setup(
    training_set: TrainingSet, student: BuiltModel, networks: Sequence[BuiltModel], unlabeled_pool: Pixels | None
) -> TrainingSetup:
    """Build the training of a student without its teachers.

    ``networks`` are the teachers, trained or not. The complete pool is a placeholder for images that the method
    prepares later.
    """
    spec, context, training = training_set.spec, training_set.context, training_set.spec.training
    torch.manual_seed(derive_seed(training.seed, "method"))
    pixels, _ = training_set.training_split()
    method_context = MethodContext.from_spec(
        spec,
        student=student,
        teachers=networks,
        num_classes=context.stored.num_classes or student.num_classes or None,
        num_samples=len(pixels),
        labeled_fraction=labeled_fraction(pixels),
        num_pool=None if unlabeled_pool is None else len(unlabeled_pool),
    )
    return TrainingSetup(
        training=training,
        student=student,
        method=build_method(spec.method, method_context),
        teachers=(),
        loader=context.loader(
            training,
            image_size=training_set.decode_size,
            views=training.distinct_views,
            pixels=unlabeled_pool or pixels,
        ),
        compute=context.compute,
        ema=training.ema,
        balance=training.balance,
    )
