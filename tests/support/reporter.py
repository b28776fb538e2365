"""A reporter that records its calls and can request a pause, stop, cancel or drain."""

from collections import defaultdict
from typing import Any, NamedTuple

from core.local_reporter import FolderReporter
from core.reporting import Control


class RecordedEvent(NamedTuple):
    """One event as the engine reported it."""

    type: str
    data: dict[str, Any]


class RecordingReporter(FolderReporter):
    """Records stages, events, metrics, progress, checkpoints and offers; files go to `root` as in a local run.

    Args:
        root: Folder of the run.
        teachers: Folder of trained teachers; by default one in `root`.
        control: Request that `control()` returns after `after` calls; before, it returns `Control.GO`.
        after: Number of those calls.
        stage: Stage whose calls count; in other stages `control()` returns `Control.GO`. None: every stage.
    """

    def __init__(self, root, *, teachers=None, control=Control.GO, after=0, stage=None):
        super().__init__(root, teachers=teachers or root / "teachers")
        self.control_override = control
        self.stages = []
        self.events = []
        self.logged = defaultdict(dict)  # step -> series name -> value
        self.series = defaultdict(list)  # series name -> points (step, value)
        self.progress_reports = []
        self.checkpoints = []
        self.offers = []
        self.num_polls = 0
        self._after, self._stage = after, stage

    @property
    def event_types(self):
        return [event.type for event in self.events]

    def event_data(self, event_type):
        """Data of the last event of a type."""
        return dict(self.events)[event_type]

    @property
    def fractions(self):
        """The reported progress of the job."""
        return [progress.fraction for progress in self.progress_reports]

    def stage_started(self, stage):
        super().stage_started(stage)
        self.stages.append(stage.value)

    def event(self, type, message, *, level="info", data=None):  # noqa: A002 - the reporter's interface
        self.events.append(RecordedEvent(type, dict(data or {})))

    def metrics(self, step, values):
        super().metrics(step, values)
        self.logged[step].update(values)
        for name, value in values.items():
            self.series[name].append((step, value))

    def progress(self, progress):
        super().progress(progress)
        self.progress_reports.append(progress)

    def save_checkpoint(self, checkpoint):
        super().save_checkpoint(checkpoint)
        self.checkpoints.append(checkpoint)

    def offer_views(self, offer):
        self.offers.append(offer)

    def control(self):
        if self._stage is not None and self.stage is not self._stage:
            return Control.GO
        self.num_polls += 1
        return super().control() if self.num_polls > self._after else Control.GO
