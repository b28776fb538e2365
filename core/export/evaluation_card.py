"""Section of the model card on whether the teacher helped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.spec.teacher_names import teacher_subject


def teacher_effect(evaluation: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    """Return the section's paragraphs, from ``evaluation`` of the report; empty for a job without teachers."""
    if not result.get("teachers"):
        return []
    lines = [evaluation["verdict"]["text"]]
    retention, baseline = evaluation["retention"], result.get("baseline")
    if retention is not None and retention["top1"] is not None:
        teacher = teacher_subject(retention["teacher"], len(result["teachers"]))
        lines.append(f"- Retention: {100 * retention['top1']:.1f} % of the accuracy of {teacher}.")
    if baseline is not None and baseline["top1"] is not None:
        lines.append(f"- Baseline, trained by labels alone: {100 * baseline['top1']:.2f} % top-1.")
    calibration = (evaluation["calibration"] or {}).get("student")
    if calibration is not None:
        text = f"- Calibration: expected error {100 * calibration['ece']:.1f} %, NLL {calibration['nll']:.3f}"
        scaled = calibration["scaled"]
        if scaled is not None:
            text += (
                f"; with logits divided by {scaled['temperature']:.3g} {100 * scaled['ece']:.1f} % and "
                f"{scaled['nll']:.3f} (fitted on {scaled['num_held_out']:,} held-out training images)"
            )
        lines.append(f"{text}.")
    if evaluation["robustness"] is not None:
        lines.append(f"- {_robustness(evaluation['robustness'])}")
    if evaluation["worst_classes"]:
        names = ", ".join(f"`{_inline(name)}`" for name in evaluation["worst_classes"][:5])
        lines.append(f"- Least accurate classes: {names}.")
    return ["## Did the teacher help?", "\n".join([lines[0], "", *lines[1:]]).rstrip()]


def _robustness(robustness: Mapping[str, Any]) -> str:
    values = ", ".join(
        f"{row['corruption'].replace('_', ' ')} {100 * row['student']:.1f} %" for row in robustness["corruptions"]
    )
    clean = 100 * robustness["clean"]["student"]
    return f"On {robustness['num_images']} corrupted test images ({clean:.1f} % without corruption): {values}."


def _inline(text: str) -> str:
    """Remove markup and newlines: names come from uploads."""
    return " ".join(text.replace("`", "'").replace("|", "/").replace("<", "‹").split())
