"""A reporter that records its calls and can request a pause, stop, cancel or drain."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from core.local_reporter import FolderReporter
from core.reporting import Control


@dataclass(frozen=True)
class RecordedEvent:
    """One event as the engine reported it."""

    type: str
    message: str
    level: str = "info"
    data: dict[str, Any] = field(default_factory=dict)


class RecordingReporter(FolderReporter):
    """Records stages, events, metrics, progress and checkpoints; files go to `root` as in a local run.

    Args:
        root: Folder of the run.
        teachers: Folder of trained teachers; by default one in `root`.
        control: What `control()` returns once it was called more than `control_after` times.
        control_after: Number of calls that return `Control.GO` first; None: all of them.
        control_stage: Count calls in this stage only, and return `Control.GO` in every other stage.
    """

    def __init__(self, root, *, teachers=None, control=Control.PAUSE, control_after=None, control_stage=None):
        super().__init__(root, teachers=teachers or root / "teachers")
        self.stages = []
        self.events = []
        self.values = defaultdict(dict)  # step -> series name -> value
        self.progress_updates = []
        self.checkpoints = []
        self.num_control_calls = 0
        self.requested_control = control
        self.control_after = control_after
        self.control_stage = control_stage

    @property
    def event_types(self):
        return [event.type for event in self.events]

    def event_data(self, event_type):
        """Data of the last event of a type."""
        return next(event.data for event in reversed(self.events) if event.type == event_type)

    @property
    def series(self):
        """The points (step, value) of each series by name."""
        points = defaultdict(list)
        for step, values in self.values.items():
            for name, value in values.items():
                points[name].append((step, value))
        return points

    def stage_started(self, stage):
        super().stage_started(stage)
        self.stages.append(stage.value)

    def event(self, type, message, *, level="info", data=None):  # noqa: A002 - the reporter's interface
        self.events.append(RecordedEvent(type, message, level, dict(data or {})))

    def metrics(self, step, values):
        super().metrics(step, values)
        self.values[step].update(values)

    def progress(self, progress):
        super().progress(progress)
        self.progress_updates.append(progress)

    def save_checkpoint(self, checkpoint):
        super().save_checkpoint(checkpoint)
        self.checkpoints.append(checkpoint)

    def control(self):
        if self.control_stage is not None and self.stage is not self.control_stage:
            return Control.GO
        self.num_control_calls += 1
        if self.control_after is not None and self.num_control_calls > self.control_after:
            return self.requested_control
        return Control.GO
