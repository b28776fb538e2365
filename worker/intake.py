"""The ingest worker's part: claim what was sent, watch over the process that takes it in, answer for its end."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import structlog

from core.queue import Hints
from core.reporting import Control
from core.store import datasets, models
from core.store.db import Database, DatabaseUnavailable, Session
from core.store.intake import Holding
from core.store.leases import LeaseLost
from core.store.tables import Dataset, Model
from worker.context import Context, current
from worker.guardian import Ending, Guardian, Rhythm

log = structlog.get_logger(__name__)

Work = Callable[[Context, Dataset | Model], int]


@dataclass(frozen=True, slots=True)
class Kind:
    """Datasets or models: where their state is, what is done with one, how to say that more wait."""

    store: ModuleType
    work: str  # the function of worker.ingest
    look: Callable[[Hints], None]


DATASETS = Kind(datasets, "ingest_dataset", Hints.look_for_datasets)
MODELS = Kind(models, "check_model", Hints.look_for_models)


def take_in_next(kind: Kind) -> None:
    """Claim the oldest one that waits and stay with it to its end; nothing where none waits."""
    context = current()
    row = _claim(context, kind)
    if row is None:
        return
    holding = Holding.of(row)
    with structlog.contextvars.bound_contextvars(object_id=row.id, attempt=row.attempt):
        guardian = Guardian(_beat(context, kind, holding), _rhythm(context))
        context.database.dispose()  # its connections must not cross the fork
        ending = guardian.run(lambda control: _work(context.in_this_process(), kind, row, control))
        if ending is not Ending.DONE:
            _see_to(context, kind, holding, ending)
        shutil.rmtree(scratch_of(context, row), ignore_errors=True)
        log.info("intake.left", ending=ending)
    _look_for_more(context, kind)


def scratch_of(context: Context, row: Dataset | Model) -> object:
    """The folder for what only this attempt needs."""
    return context.settings.home.resolve() / "work" / f"{row.id}-a{row.attempt}"
