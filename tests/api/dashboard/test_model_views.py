"""Presentation of models, without HTTP."""

from typing import get_args

import pytest

from api.dashboard import model_views as views
from api.dashboard.model_form import ModelForm
from core.errors import FieldError, InvalidRequest
from core.store.lineage import Role


def node(kind, name, **details):
    return {"id": name, "object": kind, "name": name, "exists": True, "details": details}


@pytest.fixture
def lineage():
    nodes = [
        node("model", "student", architecture="vit", parameters=1000),
        node("job", "job_1", method="kd", status="succeeded"),
        node("model", "teacher", architecture="resnet18", parameters=2_000_000),
        node("teacher", "job_1/teachers/1", weights="pretrained"),
        node("artifact", "job_1/artifacts/int8", top1=0.5, size_bytes=1000),
        {**node("job", "job_2"), "exists": False},
        node("checkpoint", "step 20", job="job_3"),
        node("job", "job_3", method="kd", status="succeeded"),
    ]
    edges = [
        ("job_1", "student", "student"),
        ("teacher", "job_1", "teacher"),
        ("job_1/teachers/1", "job_1", "teacher"),
        ("step 20", "job_1", "initial_weights"),
        ("job_3", "step 20", "checkpoint"),
        ("student", "job_1/artifacts/int8", "compressed"),
        ("student", "job_2", "teacher"),
        ("job_2", "student", "initial_weights"),  # a circle must not hang the page
    ]
    edges = [dict(zip(("source", "target", "role"), edge, strict=True)) for edge in edges]
    return {"model": "student", "nodes": nodes, "edges": edges, "truncated": False}


class TestLineage:
    def test_ancestors_are_below_what_was_made_from_them(self, lineage):
        rows = [(row.depth, row.role, row.name, row.details, row.url) for row in views.ancestors(lineage)]

        assert rows == [
            (0, "made by", "job_1", "job, kd, succeeded", "/jobs/job_1"),
            (1, "teacher", "teacher", "model, resnet18, 2 M parameters", "/models/teacher"),
            (1, "teacher", "job_1/teachers/1", "weights, pretrained", None),
            (1, "initial weights", "step 20", "checkpoint", "/jobs/job_3"),
            (2, "checkpoint of", "job_3", "job, kd, succeeded", "/jobs/job_3"),
            (0, "initial weights", "job_2", "deleted", None),
        ]

    def test_descendants_are_files_and_jobs(self, lineage):
        rows = [(row.depth, row.role, row.details, row.url) for row in views.descendants(lineage)]

        assert rows == [
            (0, "compressed to", "file, 1 kB, top-1 50.0\u00a0%", "/jobs/job_1"),
            (0, "teaches", "deleted", None),
        ]


@pytest.mark.parametrize("role", get_args(Role))
def test_each_role_has_words_in_both_directions(lineage, role):
    edges = [{"source": "job_1", "target": "student", "role": role}]
    edges += [{"source": "student", "target": "job_3", "role": role}]
    document = {**lineage, "edges": edges}

    assert views.ancestors(document)[0].role
    assert views.descendants(document)[0].role


@pytest.mark.parametrize(
    ("source", "words"), [("request", "given"), ("architecture", "timm"), ("default", "−1…1"), ("job", "the job")]
)
def test_the_source_of_the_normalization_is_described(source, words):
    model = {"normalization": {"mean": [0.5, 0.25, 0.125], "std": [0.1]}, "normalization_source": source}

    assert views.normalization_text(model) == "mean 0.5, 0.25, 0.125; std 0.1"
    assert words in views.normalization_source(model)
    assert views.normalization_text({"normalization": None}) is None


class TestForm:
    def test_fields_are_parsed(self):
        form = ModelForm(
            upload="up_1", architecture="r", arguments='{"a": 1}', mean="0.5, 0.4", std="1", classes="a\n\nb "
        )

        assert form.document() == {
            "upload": "up_1",
            "name": None,
            "architecture": "r",
            "arguments": {"a": 1},
            "normalization": {"mean": [0.5, 0.4], "std": [1.0]},
            "classes": ["a", "b"],
        }

    def test_arguments_that_are_no_json_are_a_problem_of_their_field(self):
        form = ModelForm(arguments="{")
        with pytest.raises(InvalidRequest) as raised:
            form.document()

        assert list(form.problems(raised.value)) == ["arguments"]

    def test_problems_are_those_of_its_fields(self):
        pointers = ("/normalization/mean/0", "/normalization/std", "/arguments/num_classes", "/classes/3", "/other")
        error = InvalidRequest("x", errors=[FieldError(pointer, pointer) for pointer in pointers])

        assert list(ModelForm().problems(error)) == ["mean", "std", "arguments", "classes", ""]
