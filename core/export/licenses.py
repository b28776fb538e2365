"""Licenses of the pretrained weights that a student was trained from."""

from __future__ import annotations

from core.models import catalog
from core.spec import JobSpec


def weight_licenses(spec: JobSpec) -> dict[str, str]:
    """Return the license of each pretrained model of a job that states one, by timm's name of the weights."""
    models = spec.models().values()
    found = {m.architecture_name: catalog.license(m.architecture_name) for m in models if m.weights == "pretrained"}
    return {name: terms for name, terms in found.items() if terms is not None}
