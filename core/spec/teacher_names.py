"""Names of teachers in texts for readers: numbered from 0 as in the spec, a single one without a number."""

from __future__ import annotations


def teacher_name(index: int, num_teachers: int) -> str:
    """Return the name in tables and labels: ``teacher``, or ``teacher 0`` where the job has several."""
    return "teacher" if num_teachers == 1 else f"teacher {index}"


def teacher_subject(index: int, num_teachers: int) -> str:
    """Return the name in a sentence: ``the teacher``, or ``teacher 0`` where the job has several."""
    return "the teacher" if num_teachers == 1 else f"teacher {index}"


def model_name(pointer: str, num_teachers: int) -> str:
    """Return the name of the model at a pointer of a spec: ``student``, ``teacher`` or ``teacher 0``."""
    kind, _, index = pointer.removeprefix("/").partition("/")
    return teacher_name(int(index), num_teachers) if kind == "teachers" else kind
