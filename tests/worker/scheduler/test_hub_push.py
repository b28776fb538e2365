"""Pushes to a stand-in of the hub over TLS, with the hub's own client."""

import pytest
from pydantic import SecretStr

from core.store import events, pushes
from core.store.pushes import PushTarget
from tests.support.hub_server import HubRepositories
from tests.worker.scheduler.conftest import FILES
from worker.scheduler.hub_push import HubPush

# Of the hub's client about its own HTTP client.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

SECRET_KEY = "k" * 32
TOKEN = "hf_abcdefghijklmnop123"
NAMES = [name for name in sorted(FILES) if name != "predictions.npz"]


@pytest.fixture
def make_hub(tls_server, service, store, authority, make_runner, monkeypatch):
    """Start a hub; return it and a runner that pushes to it."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))

    def make(*, settings=None, **options):
        hub = HubRepositories(tls_server, **options)
        changes = {
            "fetch_allow": ("localhost",),
            "fetch_ports": (hub.port,),
            "hub_endpoint": hub.endpoint,
            "secret_key": SecretStr(SECRET_KEY),
            **(settings or {}),
        }
        changed = service.settings.model_copy(update=changes)
        return hub, make_runner(push=HubPush(service.context.database, store, changed))

    return make


@pytest.fixture
def push(service, start_job):
    """Request a push of a job that has succeeded; return a function that reads it."""
    job = start_job()
    job.succeed()

    def request(*, token=TOKEN, repo="acme/pets", **changes):
        target = PushTarget(
            **{
                "repo": repo,
                "revision": "main",
                "private": True,
                "files": NAMES,
                "message": "m",
                "license": None,
                **changes,
            }
        )
        new = service.write(pushes.create, service.project, job.id, target, token=token, secret_key=SECRET_KEY)
        return lambda: service.read(pushes.get, service.project, job.id, new.id)

    request.job = job
    return request


def events_of(service, job):
    found = service.read(events.list_events, service.project, job.id).items
    return [event for event in found if event.type.startswith("push.")]


def test_a_student_is_pushed_to_a_private_repository_with_its_card(service, make_hub, push):
    hub, runner = make_hub()
    pushed = push(license="apache-2.0")
    assert TOKEN not in pushed().secret
    assert runner.run_next()

    files = hub.repos["acme/pets"]["branches"]["main"]
    assert hub.repos["acme/pets"]["visibility"] == "private"
    assert sorted(files) == NAMES
    assert files["model.safetensors"] == FILES["model.safetensors"]
    card = files["README.md"].decode()
    assert "license: apache-2.0" in card
    assert 'timm.create_model("hf-hub:acme/pets")' in card
    done = pushed()
    assert (done.status, done.secret, done.error) == ("succeeded", None, None)
    assert done.result == {"commit": hub.commits[0][0], "url": f"{hub.endpoint}/acme/pets/commit/{hub.commits[0][0]}"}
    assert [event.type for event in events_of(service, push.job)] == ["push.created", "push.succeeded"]


def test_the_same_content_makes_no_second_commit(make_hub, push):
    hub, runner = make_hub()
    first, second = push(), push()
    while runner.run_next():
        pass

    assert first().result["commit"] == second().result["commit"]
    assert (len(hub.commits), len(hub.uploads)) == (1, 1)


def test_an_interrupted_push_goes_on_with_what_is_missing(make_hub, push):
    failures = iter([503])
    hub, runner = make_hub(fail=lambda method, path: next(failures, None) if "/commit/" in path else None)
    pushed = push()
    runner.run_next()
    waiting = pushed()
    assert (waiting.status, waiting.error["code"], waiting.attempt) == ("pending", "push_unavailable", 1)
    assert waiting.secret is not None

    runner.later(60)
    runner.run_next()
    assert pushed().status == "succeeded"
    assert (len(hub.commits), len(hub.uploads)) == (1, 1)


def test_a_hub_that_stays_away_fails_the_push_after_a_day(service, make_hub, push):
    _hub, runner = make_hub(fail=lambda method, path: 500)
    pushed = push()
    for _ in range(40):
        runner.run_next()
        runner.later(3700)

    assert (pushed().status, pushed().error["code"], pushed().secret) == ("failed", "push_unavailable", None)
    assert events_of(service, push.job)[-1].type == "push.failed"


@pytest.mark.parametrize(
    ("options", "changes", "code"),
    [
        ({}, {"token": "hf_anothertokenabcdef"}, "push_unauthorized"),
        (
            {"fail": lambda method, path: 403 if "create" in path or path.startswith("/api/models") else None},
            {},
            "push_unauthorized",
        ),
        ({"fail": lambda method, path: 400 if "/commit/" in path else None}, {}, "push_rejected"),
        ({"settings": {"fetch_allow": ()}}, {}, "push_rejected"),
        ({"settings": {"secret_key": SecretStr("z" * 32)}}, {}, "push_token_lost"),
    ],
)
def test_a_failure_has_a_code_and_names_no_token(service, make_hub, push, capfd, options, changes, code):
    _hub, runner = make_hub(**options)
    pushed = push(**changes)
    runner.run_next()

    failed = pushed()
    assert (failed.status, failed.error["code"], failed.secret) == ("failed", code, None)
    texts = [str(failed.error), *(str(event.data) + event.message for event in events_of(service, push.job))]
    assert not any("hf_a" in text for text in [*texts, *capfd.readouterr()])


def test_a_branch_is_created(make_hub, push):
    hub, runner = make_hub()
    push(revision="v1")
    runner.run_next()

    assert sorted(hub.repos["acme/pets"]["branches"]["v1"]) == NAMES
    assert hub.repos["acme/pets"]["branches"]["main"] == {}


def test_an_uploader_does_not_use_the_machine_settings_of_the_hub(make_hub, push, monkeypatch):
    """A proxy, a token or an endpoint in the environment of the scheduler changes nothing."""
    for name, value in {"HF_TOKEN": "hf_environment", "HTTPS_PROXY": "http://127.0.0.1:1"}.items():
        monkeypatch.setenv(name, value)
    _hub, runner = make_hub()
    pushed = push()
    runner.run_next()

    assert pushed().status == "succeeded"
