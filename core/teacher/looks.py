"""How often the teachers are right on the pictures that are looked at while training."""

from __future__ import annotations

from collections.abc import Sequence

from core.teacher.frozen import FrozenTeacher
from core.teacher.question import teacher_digest
from core.train.context import RunContext
from core.train.notes import Notes


def look_at_teachers(teachers: Sequence[FrozenTeacher], context: RunContext, image_size: int) -> None:
    """Log the line that the student's curve is drawn against. Of a teacher that was looked at before it is known."""
    pictures = context.looked_at(image_size)
    notes = Notes(context.cache, context.arithmetic, context.threads)
    for index, teacher in enumerate(teachers):
        of = {
            "teacher": teacher_digest(teacher.built),
            "pictures": context.stored.fingerprint,
            "size": image_size,
            "count": len(pictures),
        }
        known = notes.find("look", of)
        accuracy = context.top1(teacher.logits, pictures) if known is None else known["top1"]
        if known is None:
            notes.keep("look", of, {"top1": accuracy})
        context.reporter.metrics(0, {f"teacher/{index}/top1": accuracy})
