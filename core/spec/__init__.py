"""The wire contract of a job, free of torch: what the API validates, the worker runs and the report repeats."""

from core.spec.job import JobSpec, ModelSpec, StudentSpec, TeacherSpec, TeacherTrainingSpec, TrainingBase, TrainingSpec
from core.spec.methods import METHODS, MethodParams
from core.spec.parse import parse_job_spec

__all__ = [
    "METHODS",
    "JobSpec",
    "MethodParams",
    "ModelSpec",
    "StudentSpec",
    "TeacherSpec",
    "TeacherTrainingSpec",
    "TrainingBase",
    "TrainingSpec",
    "parse_job_spec",
]
