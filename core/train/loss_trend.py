"""First and recent loss of a training, to detect one that diverged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.train.async_metrics import StepMetrics

_LABEL = "label"
_WEIGHT = 0.1  # of the newest step in the average: it covers about the last ten steps


@dataclass(slots=True)
class LossTrend:
    """First value and moving average of the term ``label``, or of the complete loss where there is no such term.

    The weights of other terms may grow during a training, so their values at different steps are not comparable.
    """

    name: str = ""
    first: float = 0.0
    recent: float = 0.0

    def add(self, metrics: StepMetrics) -> None:
        """Add the metrics of the next step."""
        if not self.name:
            self.name = _LABEL if metrics.terms.get(_LABEL, 0.0) > 0 else "loss"
            self.first = self.recent = self._value(metrics)
        else:
            self.recent += _WEIGHT * (self._value(metrics) - self.recent)

    @property
    def ratio(self) -> float | None:
        """Recent loss relative to the first one; None before the first step and for a first loss of 0."""
        return self.recent / self.first if self.first > 0 else None

    def load(self, saved: Mapping[str, Any]) -> None:
        """Restore saved values."""
        self.name, self.first, self.recent = str(saved["name"]), float(saved["first"]), float(saved["recent"])

    def _value(self, metrics: StepMetrics) -> float:
        return metrics.loss if self.name == "loss" else metrics.terms.get(self.name, self.recent)
