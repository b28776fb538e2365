"""Front matter of the model card: what the Hugging Face hub reads of it, with its own library's document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from core.export.licenses import weight_licenses
from core.models.built import BuiltModel
from core.spec import JobSpec

# Licenses that timm's weights state, of those that the hub knows; another one is `other` with its name.
_HUB_LICENSES = frozenset(
    {"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "openrail"}
)
_METRICS = {"top1": "Top-1 accuracy", "top5": "Top-5 accuracy"}


def front_matter(spec: JobSpec, student: BuiltModel, dataset: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """Return the YAML block with library, task, license of the initial weights, and the metrics of the test split."""
    task = "image-classification" if student.num_classes else "image-feature-extraction"
    data = ModelCardData(
        library_name="timm",
        pipeline_tag=task,
        tags=["timm", task, "distillation", student.architecture],
        model_name=spec.name or student.architecture,
        eval_results=_eval_results(task, dataset, result["student"]),
        ignore_metadata_errors=False,
        **_license(spec),
    )
    return f"---\n{data.to_yaml()}\n---"


def _eval_results(task: str, dataset: Mapping[str, Any], measures: Mapping[str, Any]) -> list[EvalResult]:
    name = str(dataset.get("name") or "dataset")
    fingerprint = dataset.get("fingerprint")
    return [
        EvalResult(
            task_type=task,
            dataset_type="image-folder",
            dataset_name=name,
            dataset_split="test",
            dataset_revision=None if fingerprint is None else str(fingerprint),
            metric_type="accuracy",
            metric_name=title,
            metric_value=measures[key],
        )
        for key, title in _METRICS.items()
        if measures.get(key) is not None
    ]


def _license(spec: JobSpec) -> dict[str, Any]:
    """License of the pretrained weights, if all state the same; several are named in the card's text."""
    found = {terms.lower() for terms in weight_licenses(spec).values()}
    if len(found) != 1:
        return {}
    (name,) = found
    return {"license": name} if name in _HUB_LICENSES else {"license": "other", "license_name": name}
