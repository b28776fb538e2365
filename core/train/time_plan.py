"""Expected seconds of the parts of a job that have not started."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProgressRange:
    """Part of a job's progress (0…1) that one training covers."""

    start: float
    width: float

    def fraction(self, training_fraction: float) -> float:
        """Convert the completed fraction of the training (0…1) to that of the job."""
        return self.start + self.width * min(training_fraction, 1.0)


class TimePlan:
    """Expected seconds of each part of one job, by its range of the job's progress.

    The parts run in the order of their ranges. Expected seconds change only what the job reports as its remaining time.
    """

    def __init__(self) -> None:
        self._seconds: dict[ProgressRange, float | None] = {}
        self._slower: dict[ProgressRange, ProgressRange] = {}

    def add(self, part: ProgressRange) -> None:
        """Add a part whose seconds are not known yet. Do nothing if it was added before."""
        self._seconds.setdefault(part, None)

    def expect(self, part: ProgressRange, seconds: float, *, slower: ProgressRange | None = None) -> None:
        """Set the expected seconds of a part; 0 if the job does not need it.

        ``slower`` is an earlier part with more work in each step: while it runs, its speed limits these seconds.
        """
        self._seconds[part] = seconds
        if slower is not None:
            self._slower[part] = slower

    def expected_seconds(self, part: ProgressRange) -> float | None:
        """Return the expected seconds of a part; None if they are not known."""
        return self._seconds.get(part)

    def seconds_after(self, part: ProgressRange, *, seconds_per_progress: float) -> float:
        """Return the expected seconds of all parts after ``part``.

        A part with unknown seconds takes ``seconds_per_progress`` times its width.
        """
        return sum(
            self._part_seconds(other, part, other.width * seconds_per_progress)
            for other in self._seconds
            if other != part and other.start >= part.start + part.width / 2  # a training of 0 epochs has no width
        )

    def _part_seconds(self, part: ProgressRange, current: ProgressRange, seconds_at_its_speed: float) -> float:
        seconds = self._seconds[part]
        if seconds is None:
            return seconds_at_its_speed
        return min(seconds, seconds_at_its_speed) if self._slower.get(part) == current else seconds
