"""The job spec: validated by the API, run by the worker, repeated in the report. Imports no torch."""

from core.spec.balance import BalanceSpec
from core.spec.export_options import ExportOptions
from core.spec.job import DistillationSpec, JobSpec, ModelSpec, StudentSpec, TeacherSpec
from core.spec.methods import METHODS, MethodParams
from core.spec.parse import parse_job_spec
from core.spec.training import TeacherTrainingSpec, TrainingBase, TrainingSpec

__all__ = [
    "METHODS",
    "BalanceSpec",
    "DistillationSpec",
    "ExportOptions",
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
