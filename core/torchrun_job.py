"""A local job whose processes torchrun has started: rank 0 runs the job, the others run its trainings."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress

import timm
import torch

from core.errors import InvalidSpec, ProcessLost
from core.export.digests import code_digest
from core.rank_host import serve_rank
from core.reporting import Control, Interrupted, RunResult
from core.system.parent_death import die_with_parent
from core.train.rank_channel import Identity, Outcome, RankChannel, RankStore, open_session
from core.train.torchrun import TorchrunEnvironment


def run_ranks(
    environment: TorchrunEnvironment | None,
    arguments: Mapping[str, str],
    job: Callable[[RankChannel | None], RunResult],
) -> RunResult | None:
    """Call ``job`` in the process with rank 0, and run its trainings in the others; they return None at its end.

    ``arguments`` have to be equal in all processes. Without torchrun, ``job`` has no channel.

    Raises:
        Interrupted: A process received SIGTERM; a checkpoint is saved.
        InvalidRequest: The processes differ in their versions, their spec or their options.
        ProcessLost: Another process has ended; torchrun restarts all of them.
    """
    if environment is None:
        return job(None)
    die_with_parent(os.getppid())  # torchrun's agent: its processes do not outlive it
    store, identity = RankStore.connect(environment), process_identity(arguments)
    if environment.place.rank > 0:
        _require_finished(serve_rank(store, environment, identity))
        return None
    channel = open_session(store, environment, identity)
    outcome = Outcome.FAILED
    try:
        result = job(channel)
        outcome = Outcome.FINISHED
    except Interrupted:
        outcome = Outcome.INTERRUPTED
        raise
    finally:
        with suppress(ProcessLost):  # without the store, torchrun ends the other ranks
            channel.close(outcome)
    return result


def _require_finished(outcome: Outcome) -> None:
    """Let this process fail unless the job is finished, so that torchrun restarts it with rank 0."""
    if outcome is Outcome.INTERRUPTED:
        raise Interrupted(Control.PAUSE)
    if outcome is Outcome.FAILED:
        raise ProcessLost("rank 0 has failed; its output names the cause")


def process_identity(arguments: Mapping[str, str]) -> Identity:
    """Return the name of this machine, and everything that has to be equal on all machines."""
    return {
        "machine": socket.gethostname(),
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "torch": str(torch.__version__),
        "timm": timm.__version__,
        "Potstill": f"{importlib.metadata.version('potstill-server')} (code {code_digest()[:12]})",
        **arguments,
    }


def with_num_ranks(document: Mapping[str, object], num_ranks: int) -> dict[str, object]:
    """Return a spec whose number of devices is that of torchrun's processes. Raises ``InvalidSpec`` for another one."""
    resources = document.get("resources") or {}
    if not isinstance(resources, dict):  # the parser rejects it
        return dict(document)
    devices = resources.get("devices", num_ranks)
    if devices != num_ranks:
        raise InvalidSpec.for_field(
            "/resources/devices",
            f"{devices!r}, but torchrun has started {num_ranks} processes; delete the field, or change "
            "--nnodes and --nproc-per-node",
        )
    return {**document, "resources": {**resources, "devices": num_ranks}}
