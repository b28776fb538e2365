"""``README.md``: the model card. It says what was measured and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core.models.built import BuiltModel
from core.spec import JobSpec

_LIMITS = (
    "The figures hold for the test split named above and for pictures like it. Nothing else was measured: not "
    "robustness, not fairness between groups, not behaviour on pictures of other classes."
)
MAX_CLASSES = 20  # more are named in config.json alone


def model_card(
    *,
    spec: JobSpec,
    student: BuiltModel,
    dataset: Mapping[str, Any],
    result: Mapping[str, Any],
    threads: int,
    formats: Sequence[str],
    rule: str | None = None,
) -> str:
    """Markdown with the front matter that the Hugging Face hub reads.

    ``rule`` says what top-1 is of, where the student has no classifier.
    """
    parts = [
        _front_matter(student),
        f"# {_inline(spec.name or student.architecture)}",
        _summary(spec, student),
        "## Measured",
        _figures(result, dataset, threads, rule),
        "## Use",
        _usage(student, formats),
        "## Input",
        _preprocessing(student),
        "## Training",
        _training(spec, dataset),
        "## Limits",
        _LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(student: BuiltModel) -> str:
    return (
        f"---\nlibrary_name: timm\npipeline_tag: {_task(student)}\n"
        f"tags:\n- timm\n- {_task(student)}\n- distillation\n- {student.architecture}\n---"
    )


def _task(student: BuiltModel) -> str:
    return "image-classification" if student.num_classes else "image-feature-extraction"


def _summary(spec: JobSpec, student: BuiltModel) -> str:
    how = f"with the method `{spec.method.name}`"
    if spec.teachers:
        teachers = ", ".join(f"`{teacher.architecture}` ({teacher.weights})" for teacher in spec.teachers)
        how += f" from {teachers}"
    asked = spec.student.architecture
    change = (
        f"`{asked}` with a distillation token" if "distilled" in student.architecture else f"`{asked}` was asked for"
    )
    note = "" if asked == student.architecture else f" ({change})"
    what = "An image classifier" if student.num_classes else "An image backbone without a classifier"
    return f"{what}, timm's `{student.architecture}`{note}, trained {how} by Potstill."


def _figures(result: Mapping[str, Any], dataset: Mapping[str, Any], threads: int, rule: str | None) -> str:
    rows = [("student", result["student"])]
    rows += [(f"teacher {index}", figures) for index, figures in enumerate(result.get("teachers", []))]
    lines = [
        "| | top-1 | top-5 | parameters | GFLOPs | MB | ms a picture |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, figures in rows:
        lines.append(
            f"| {name} | {_percent(figures['top1'])} | {_percent(figures['top5'])} | {figures['parameters']:,} | "
            f"{figures['flops'] / 1e9:.4g} | {figures['size_bytes'] / 1e6:.2f} | {figures['latency_ms']:.2f} |"
        )
    note = f"On the test split of {_dataset(dataset)} ({dataset['num_test']:,} images); nothing was chosen "
    note += f"or tuned on it. Milliseconds: median of repeated runs of one picture, {threads} thread(s). "
    note += "A multiply-add counts as two FLOPs."
    if rule:
        note += f" Top-1 and top-5 are those of {rule}."
    agreement = result.get("agreement")
    if agreement is not None:
        note += f" Student and teacher decide alike on {100 * agreement:.2f} % of the images."
    return "\n".join(lines) + "\n\n" + note


def _percent(fraction: float | None) -> str:
    return "—" if fraction is None else f"{100 * fraction:.2f} %"


def _usage(student: BuiltModel, formats: Sequence[str]) -> str:
    size, channels = student.preprocessing.image_size, student.preprocessing.channels
    mode = "L" if channels == 1 else "RGB"
    answer = "embedding = model(transform(image).unsqueeze(0))"
    if student.num_classes:
        answer = "probabilities = model(transform(image).unsqueeze(0)).softmax(dim=1)"
    code = f"""```python
import timm, torch
from PIL import Image

model = timm.create_model("local-dir:PATH_OF_THIS_FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
image = Image.open("picture.png").convert("{mode}")
with torch.inference_mode():
    {answer}
```"""
    if "onnx" in formats:
        code += f"""

`model.onnx` takes `images`, float32 of shape `(batch, {channels}, {size}, {size})`, normalised as below, and gives
`logits`; preprocessing and class names are in its metadata."""
    return code


def _preprocessing(student: BuiltModel) -> str:
    preprocessing = student.preprocessing
    text = (
        f"{preprocessing.channels} channel(s), {preprocessing.image_size} × {preprocessing.image_size} pixels: shorter "
        f"side resized ({preprocessing.interpolation}), centre cut out, values in 0…1, then mean "
        f"{_numbers(preprocessing.mean)} subtracted and divided by {_numbers(preprocessing.std)}."
    )
    classes = student.classes
    if classes is None:
        return text
    if len(classes) > MAX_CLASSES:
        return f"{text}\n\n{len(classes)} classes, named in `config.json`."
    return f"{text}\n\nClasses: {', '.join(f'`{_inline(name)}`' for name in classes)}."


def _training(spec: JobSpec, dataset: Mapping[str, Any]) -> str:
    training = spec.training
    parameters = spec.method.model_dump(mode="json", exclude={"name"})
    method = f"`{spec.method.name}`" + (f" ({_pairs(parameters)})" if parameters else "")
    return (
        f"{training.epochs} epochs over {dataset['num_train']:,} images of {_dataset(dataset)}, batches of "
        f"{training.batch_size}, AdamW at {training.learning_rate:g}, augmentation `{training.augmentation}`, seed "
        f"{training.seed}, method {method}. `report.json` has the whole spec, versions and times; the same spec on the "
        "same data and machine gives the same weights."
    )


def _dataset(dataset: Mapping[str, Any]) -> str:
    fingerprint = str(dataset.get("fingerprint") or "")
    name = _inline(str(dataset.get("name") or "the dataset"))
    return f"{name} (fingerprint `{fingerprint[:16]}`)" if fingerprint else name


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _inline(text: str) -> str:
    """Names come from uploads: no markup, no new lines."""
    return " ".join(text.replace("`", "'").replace("|", "/").replace("<", "‹").split())
