"""The client's documents follow the published OpenAPI document, and the generated modules are up to date."""

from datetime import UTC, datetime

import pytest

import potstill._async.job
import potstill._async.models
import potstill.documents
from potstill import Dataset, Job, Metrics, Model
from potstill.document_base import Document
from server.docs_client import PACKAGE, _response_documents, client_modules, document_class
from server.docs_client_sync import TARGET, sync_modules
from tests.support.openapi_documents import make_document, openapi

WITH_METHODS = {"JobDocument": Job, "DatasetDocument": Dataset, "ModelDocument": Model, "MetricsDocument": Metrics}
NAMES = [name for name in _response_documents(openapi()) if not name.startswith("Page_") and name != "JobSpec"]


def client_class(name):
    class_name = document_class(name)
    return WITH_METHODS.get(class_name) or getattr(potstill.documents, class_name, None)


@pytest.mark.parametrize("name", [name for name in NAMES if client_class(name)])
@pytest.mark.parametrize("full", [True, False], ids=["full", "empty"])
def test_a_document_of_the_service_is_read_completely(name, full):
    document = make_document(name, full=full)

    read = client_class(name).model_validate(document)

    assert set(client_class(name).model_fields) == set(document)
    assert read.model_extra == {}
    assert client_class(name).model_validate(read.to_dict()) == read


def test_every_response_has_a_class():
    assert {name for name in NAMES if client_class(name) is None} <= {
        *("JsonValue", "ResourcesSpec", "StudentSpec", "TeacherSpec", "TeacherTrainingSpec", "TrainingSpec"),
        "BalanceSpec",
        "DistillationSpec",
    }


def test_times_are_aware_and_documents_immutable():
    job = Job.model_validate(make_document("JobOut", created_at="2026-11-24T08:00:00.125Z"))

    assert job.created_at == datetime(2026, 11, 24, 8, 0, 0, 125_000, tzinfo=UTC)
    with pytest.raises(ValueError, match="frozen"):
        job.status = "failed"


def test_words_and_fields_of_a_later_version_are_accepted():
    job = Job.model_validate(make_document("JobOut", status="hibernating") | {"mood": "good"})

    assert job.status == "hibernating"
    assert job.mood == "good"
    assert job.to_dict()["mood"] == "good"


def test_a_document_of_an_earlier_version_may_lack_nullable_fields():
    document = make_document("JobOut")
    del document["waiting_reason"]

    assert Job.model_validate(document).waiting_reason is None


def test_documents_share_a_base():
    assert issubclass(Job, Document)


@pytest.mark.parametrize(
    ("folder", "modules"),
    [(PACKAGE, lambda: client_modules(openapi())), (TARGET, sync_modules)],
    ids=["documents", "synchronous client"],
)
def test_generated_modules_are_up_to_date(folder, modules):
    outdated = [name for name, text in modules().items() if (folder / name).read_text() != text]

    assert outdated == [], "run `make docs`"
