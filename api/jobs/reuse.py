"""What a job would find again from earlier jobs: cached teacher outputs, trained teachers and baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from core.spec import JobSpec
from core.spec.trained_models import BASELINE, trained_models
from core.store import teachers
from core.store.db import Database, Session

Document = dict[str, Any]


class EarlierJobs:
    """What the earlier jobs of a project leave for new ones. Reads the jobs of each dataset once."""

    def __init__(self, database: Database, project_id: str) -> None:
        self._database = database
        self._project_id = project_id
        self._recipes: dict[str, set[str]] = {}  # by dataset

    def add_reuse(self, resolved: Mapping[str, Any], estimate: Document) -> Document:
        """Return an estimate with what the job finds again, without the seconds that this saves.

        ``resolved`` is the spec with all defaults. This is a prediction: the worker decides.
        """
        spec = JobSpec.model_validate(resolved)
        cache = dict(estimate["teacher_cache"])
        with self._database.read() as session:
            known = self._known_recipes(session, spec.dataset)
            cache_key, num_views = cache.pop("cache_key"), cache["views"]
            hit = cache_key is not None and teachers.has_cached_outputs(
                session, self._project_id, spec.dataset, cache_key=cache_key, num_views=num_views
            )
        cache |= {"hit": hit, "saved_seconds": cache["seconds"] if hit else 0.0}
        reused = [entry for recipe, entry in trained_entries(spec, estimate) if recipe in known]

        def marked(entry: Document) -> Document:
            is_reused = entry in reused
            return {**entry, "reused": is_reused, "saved_seconds": entry["seconds"] if is_reused else 0.0}

        baseline = estimate["baseline"]
        added: Document = {
            "teacher_cache": cache,
            "teacher_trainings": [marked(entry) for entry in estimate["teacher_trainings"]],
            "baseline": None if baseline is None else marked(baseline),
            "distillations": [marked(entry) for entry in estimate.get("distillations", [])],
        }
        parts = [
            cache,
            *added["teacher_trainings"],
            *added["distillations"],
            *([added["baseline"]] if baseline else []),
        ]
        saved = sum(part["saved_seconds"] for part in parts)
        return {**estimate, **added, "seconds": round(max(0.0, estimate["seconds"] - saved), 1)}

    def _known_recipes(self, session: Session, dataset_id: str) -> set[str]:
        """Return the recipes of the models that jobs on the dataset trained and that are still stored."""
        if dataset_id not in self._recipes:
            self._recipes[dataset_id] = set(_stored_recipes(session, self._project_id, dataset_id))
        return self._recipes[dataset_id]


def trained_entries(spec: JobSpec, estimate: Document) -> Iterator[tuple[str, Document]]:
    """Yield the recipe of each model that a job trains besides its student, and its entry of the estimate.

    A distillation inside another one has no entry of its own: the outer one contains its seconds.
    """
    recipes = trained_models(spec)
    for entry in estimate["teacher_trainings"]:
        yield recipes[f"/teachers/{entry['teacher']}/training"], entry
    for entry in estimate.get("distillations", []):
        if (pointer := f"{entry['model']}/distillation") in recipes:
            yield recipes[pointer], entry
    if estimate["baseline"] is not None:
        yield recipes[BASELINE], estimate["baseline"]


def _stored_recipes(session: Session, project_id: str, dataset_id: str) -> Iterator[str]:
    for document, pointers in teachers.find_trained_models(session, project_id, dataset_id):
        try:
            recipes = trained_models(JobSpec.model_validate(document))
        except ValidationError:
            continue  # a spec of an earlier version
        yield from (recipes[pointer] for pointer in pointers if pointer in recipes)
