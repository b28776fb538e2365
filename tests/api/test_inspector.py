"""The API's client of the inspector."""

import asyncio

import pytest

from api.inspector import Inspector
from core.broker import InspectorTimeout
from core.errors import InvalidSpec, PotstillError, error_document

BUSY = {"error": error_document(InspectorTimeout("busy"))}
INVALID = {"error": error_document(InvalidSpec.for_field("/student", "is missing"))}


class ScriptedBroker:
    """Answers each call with the next entry: responses to the first requests, or an error."""

    def __init__(self, *script):
        self.script, self.requests = list(script), []

    async def call_inspector(self, call, payload, *, timeout):  # noqa: ASYNC109 - as in Broker
        assert call == "resolve_many"
        self.requests.append([each["number"] for each in payload["requests"]])
        entry = self.script.pop(0)
        if isinstance(entry, Exception):
            raise entry
        return {"responses": entry}


def resolve_many(broker, num_specs):
    inspector = Inspector(broker, timeout_seconds=1)
    return asyncio.run(inspector.resolve_many([{"number": number} for number in range(num_specs)]))


def ok(*numbers):
    return [{"ok": {"number": number}} for number in numbers]


def test_specs_that_one_call_has_no_time_for_are_sent_again():
    broker = ScriptedBroker(ok(0, 1), [INVALID], ok(3))
    found = resolve_many(broker, 4)

    assert broker.requests == [[0, 1, 2, 3], [2, 3], [3]]
    assert [each["number"] for each in found if isinstance(each, dict)] == [0, 1, 3]
    assert isinstance(found[2], InvalidSpec)
    assert found[2].errors[0].pointer == "/student"


@pytest.mark.parametrize("end", [InspectorTimeout("busy"), [BUSY, *ok(2)]])
def test_a_busy_inspector_is_not_called_again(end):
    broker = ScriptedBroker(ok(0), end)

    assert resolve_many(broker, 3) == [{"number": 0}, None, None]
    assert len(broker.requests) == 2


def test_another_error_of_the_inspector_is_raised():
    with pytest.raises(PotstillError, match="unexpected"):
        resolve_many(ScriptedBroker([{"error": error_document(PotstillError("unexpected"))}]), 1)
