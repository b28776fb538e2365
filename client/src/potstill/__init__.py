"""The Python SDK of Potstill.

>>> with Potstill() as client:
...     dataset = client.datasets.create({"type": "builtin", "name": "digits"}).wait()
...     job = client.jobs.create({"dataset": dataset.id, "student": …, "method": {"name": "kd"}}).wait(progress=True)
...     model = job.load()

Responses are immutable pydantic models. :class:`AsyncPotstill` has the same methods as coroutines, and its lists and
streams are asynchronous iterators. Retries are idempotent.
"""

from potstill._async.client import AsyncPotstill
from potstill._async.datasets import AsyncDataset
from potstill._async.job import AsyncJob
from potstill._async.models import AsyncModel
from potstill._async.sweeps import AsyncSweep
from potstill._sync.client import Potstill
from potstill._sync.datasets import Dataset
from potstill._sync.job import Job
from potstill._sync.models import Model
from potstill._sync.sweeps import Sweep
from potstill.errors import ApiError, PotstillError
from potstill.job_spec import JobSpec
from potstill.metrics import Metrics

__version__ = "0.1.0"

__all__ = [
    "ApiError",
    "AsyncDataset",
    "AsyncJob",
    "AsyncModel",
    "AsyncPotstill",
    "AsyncSweep",
    "Dataset",
    "Job",
    "JobSpec",
    "Metrics",
    "Model",
    "Potstill",
    "PotstillError",
    "Sweep",
]
