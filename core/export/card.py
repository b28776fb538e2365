"""``README.md``: the model card. It has measured facts only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from core.export.card_files import files_section
from core.export.card_metadata import front_matter
from core.export.compression_card import compression_section
from core.export.evaluation_card import teacher_effect
from core.export.licenses import weight_licenses
from core.models.built import BuiltModel
from core.spec import DistillationSpec, JobSpec, TeacherSpec
from core.spec.export_options import ExportOptions
from core.spec.teacher_names import teacher_name

_LIMITS = (
    "The metrics hold for the test split named above and for similar images. Nothing else was measured: not "
    "fairness between groups, not behavior on images of other classes."
)
_OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD", "lion": "Lion"}
MAX_CLASSES = 20  # a longer list is in config.json only


def model_card(
    *,
    spec: JobSpec,
    student: BuiltModel,
    dataset: Mapping[str, Any],
    result: Mapping[str, Any],
    threads: int,
    receipts: Mapping[ExportOptions, Mapping[str, Any]],
    compressed: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    top1_metric: str | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> str:
    """Write the model card as Markdown, with front matter for the Hugging Face hub.

    ``receipts`` has the receipt of each export format, ``compressed`` that of each file of a compression step by
    artifact name. ``top1_metric`` describes what top-1 and top-5 measure, for a student without a classifier.
    ``evaluation`` is the section of the report.
    """
    parts = [
        front_matter(spec, student, dataset, result),
        f"# {_inline(spec.name or student.architecture)}",
        _summary(spec, student),
        "## Metrics",
        _metrics(result, dataset, threads, top1_metric),
        *([] if evaluation is None else teacher_effect(evaluation, result)),
        "## Use",
        _usage(student),
        "## Files",
        files_section(student, receipts, compressed),
        *compression_section(result),
        "## Input",
        _preprocessing(student),
        "## Training",
        _training(spec, dataset),
        *_licenses(spec, dataset),
        "## Limits",
        _LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


def _summary(spec: JobSpec, student: BuiltModel) -> str:
    how = f"with the method `{spec.method.name}`"
    if spec.teachers:
        how += f" from {_teachers(spec.teachers)}"
    if spec.student.distillation is not None:
        how += f", starting from weights {_distilled(spec.student.distillation)}"
    requested = spec.student.architecture_name.partition(".")[0]
    change = (
        f"`{requested}` with a distillation token"
        if "distilled" in student.architecture
        else f"a variant of `{requested}`"
    )
    note = "" if requested == student.architecture else f" ({change})"
    kind = "An image classifier" if student.num_classes else "An image backbone without a classifier"
    return f"{kind}, timm's `{student.architecture}`{note}, trained {how} by Potstill."


def _teachers(teachers: Sequence[TeacherSpec]) -> str:
    return ", ".join(
        f"`{teacher.architecture_name}` "
        f"({teacher.weights if teacher.distillation is None else _distilled(teacher.distillation)})"
        for teacher in teachers
    )


def _distilled(distillation: DistillationSpec) -> str:
    teachers = f" from {_teachers(distillation.teachers)}" if distillation.teachers else ""
    return f"distilled with the method `{distillation.method.name}`{teachers}"


def _metrics(result: Mapping[str, Any], dataset: Mapping[str, Any], threads: int, top1_metric: str | None) -> str:
    rows = [("student", result["student"])]
    rows += _teacher_rows(result.get("teachers", []))
    if result.get("baseline") is not None:
        rows.append(("baseline (labels alone)", result["baseline"]))
    lines = [
        "| | top-1 | top-5 | parameters | GFLOPs | MB | ms per image |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, metrics in rows:
        lines.append(
            f"| {name} | {_percent(metrics['top1'])} | {_percent(metrics['top5'])} | {metrics['parameters']:,} | "
            f"{metrics['flops'] / 1e9:.4g} | {metrics['size_bytes'] / 1e6:.2f} | {metrics['latency_ms']:.2f} |"
        )
    note = f"On the test split of {_dataset(dataset)} ({dataset['num_test']:,} images); nothing was selected "
    note += f"or tuned on it. Milliseconds: median of repeated runs of one image, {threads} thread(s). "
    note += "A multiply-add counts as two FLOPs."
    if top1_metric:
        note += f" Top-1 and top-5 are those of {top1_metric}."
    agreement = result.get("agreement")
    if agreement is not None:
        teachers = "teacher" if len(result["teachers"]) == 1 else "teachers (on average)"
        note += f" Student and {teachers} predict the same class for {100 * agreement:.2f} % of the images."
    return "\n".join(lines) + "\n\n" + note


def _teacher_rows(teachers: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(teacher_name(index, len(teachers)), metrics) for index, metrics in enumerate(teachers)]


def _percent(fraction: float | None) -> str:
    return "—" if fraction is None else f"{100 * fraction:.2f} %"


def _usage(student: BuiltModel) -> str:
    mode = "L" if student.preprocessing.channels == 1 else "RGB"
    inference = "embedding = model(transform(image).unsqueeze(0))"
    if student.num_classes:
        inference = "probabilities = model(transform(image).unsqueeze(0)).softmax(dim=1)"
    return f"""```python
import timm, torch
from PIL import Image

model = timm.create_model("local-dir:PATH_OF_THIS_FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
image = Image.open("image.png").convert("{mode}")
with torch.inference_mode():
    {inference}
```"""


def _preprocessing(student: BuiltModel) -> str:
    preprocessing = student.preprocessing
    text = (
        f"{preprocessing.channels} channel(s), {preprocessing.image_size} × {preprocessing.image_size} pixels: shorter "
        f"side resized ({preprocessing.interpolation}), center cropped, values scaled to 0…1, mean "
        f"{_numbers(preprocessing.mean)} subtracted, and divided by {_numbers(preprocessing.std)}."
    )
    classes = student.classes
    if classes is None:
        return text
    if len(classes) > MAX_CLASSES:
        return f"{text}\n\n{len(classes)} classes, named in `config.json`."
    return f"{text}\n\nClasses: {', '.join(f'`{_inline(name)}`' for name in classes)}."


def _training(spec: JobSpec, dataset: Mapping[str, Any]) -> str:
    training = spec.training
    if training.num_epochs == 0:
        return f"The weights are those of `{spec.student.weights}`, without further training."
    parameters = spec.method.model_dump(mode="json", exclude={"name"})
    method = f"`{spec.method.name}`" + (f" ({_pairs(parameters)})" if parameters else "")
    return (
        f"{training.num_epochs} epochs over {dataset['num_train']:,} images of {_dataset(dataset)}, batches of "
        f"{training.batch_size}, {_OPTIMIZERS[training.optimizer]} at {training.learning_rate:g}, augmentation "
        f"`{training.augmentation}`, seed {training.seed}, method {method}. `report.json` has the full spec, versions "
        "and times; the same spec on the same data and machine gives the same weights."
    )


def _licenses(spec: JobSpec, dataset: Mapping[str, Any]) -> list[str]:
    """Section on the licenses of pretrained weights and of the dataset; empty without any."""
    licenses = weight_licenses(spec)
    sentences = []
    if licenses:
        names = ", ".join(f"`{name}`: `{terms}`" for name, terms in licenses.items())
        sentences.append(f"Licenses of the pretrained weights that it was trained from: {names}.")
    if dataset.get("license"):
        sentences.append(f"License of the dataset: `{_inline(dataset['license'])}`.")
    return ["## Licenses", " ".join([*sentences, "They may bind it too."])] if sentences else []


def _dataset(dataset: Mapping[str, Any]) -> str:
    fingerprint = str(dataset.get("fingerprint") or "")
    name = _inline(str(dataset.get("name") or "the dataset"))
    return f"{name} (fingerprint `{fingerprint[:16]}`)" if fingerprint else name


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _inline(text: str) -> str:
    """Remove markup and newlines: names come from uploads."""
    return " ".join(text.replace("`", "'").replace("|", "/").replace("<", "‹").split())
