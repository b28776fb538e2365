"""Teacher outputs of a running job, computed by another process with the same cache folder.

The process builds the job's networks from its spec, and then computes one missing shard after another. The claims of
the cache divide the shards between the processes. Its outputs have the bits of the job's own, or it refuses to compute:
:meth:`core.teacher.output_cache.CachedOutputs.views_key` covers all that they depend on.
"""

from __future__ import annotations

from core.chain import Chain
from core.distillation import WHOLE, Distillation
from core.errors import SpecCannotRun
from core.reporting import Reporter, Workspace
from core.spec import JobSpec
from core.train.context import open_run


def fill_views(spec: JobSpec, workspace: Workspace, reporter: Reporter, *, views_key: str, next_view: int) -> int:
    """Compute missing teacher outputs from ``next_view`` on, until other processes compute the rest.

    Returns the number of computed shards. ``reporter`` finds the teachers that the job trained.

    Raises:
        Interrupted: The reporter requested an end; the shards that were complete are stored.
        SpecCannotRun: A teacher of the job is not saved, or this process would compute other bits.
    """
    with open_run(spec, workspace, reporter) as context:
        chain = Chain(spec, workspace, context, progress_range=WHOLE)
        chain.prepare()
        distillation = Distillation(chain.spec(), chain.workspace(), context)
        prepared = distillation.prepare()
        if chain.is_pending or prepared.pending_trainings:
            raise SpecCannotRun("a teacher of the job is not saved")
        _, outputs = distillation.add_teachers(prepared)
        if outputs is None or outputs.views_key() != views_key:
            raise SpecCannotRun("this process would compute other teacher outputs than the job's worker")
        return sum(1 for _ in outputs.compute_missing(next_view))
