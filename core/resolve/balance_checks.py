"""Errors for ``training.balance``."""

from __future__ import annotations

from core.errors import FieldError
from core.methods import Method
from core.spec import JobSpec


def balance_errors(spec: JobSpec, method: Method) -> list[FieldError]:
    """Return why the method's gradients cannot be balanced."""
    balance = spec.training.balance
    if balance.rule == "none" or (method.balanceable and spec.method.reads_labels):
        return []
    detail = (
        f"{spec.method.name} with these parameters does not learn from both labels and distillation, so {balance.rule} "
        "has nothing to balance; set rule to none, or choose a method with a label term and a weight above 0 for it"
    )
    return [FieldError("/training/balance/rule", detail)]
