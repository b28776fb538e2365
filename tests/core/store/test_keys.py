"""API keys."""

from datetime import UTC, datetime, timedelta

import pytest

from core.errors import NotAuthenticated, NotFound
from core.store import keys


def test_a_token_says_who_is_asking(world):
    made = world.do(keys.create, world.project, name="laptop", scopes=["read"])

    caller = world.ask(keys.authenticate, made.token)

    assert (caller.key_id, caller.project_id, caller.scopes) == (made.key.id, world.project, frozenset({"read"}))
    assert made.token.startswith(f"{made.key.prefix}_")
    assert world.ask(keys.caller_of, made.key.id) == caller


def test_the_secret_is_not_in_the_database(world):
    made = world.do(keys.create, world.project, name="laptop")

    assert made.token.rsplit("_", 1)[-1] not in repr(world.rows())


@pytest.mark.parametrize(
    "change", [lambda t: "", lambda t: "nope", lambda t: t[:-1], lambda t: t + "0", lambda t: t[3:]]
)
def test_what_is_not_the_token_is_refused(world, change):
    made = world.do(keys.create, world.project, name="laptop")

    with pytest.raises(NotAuthenticated):
        world.ask(keys.authenticate, change(made.token))


def test_a_wrong_secret_is_refused(world):
    first = world.do(keys.create, world.project, name="a")
    second = world.do(keys.create, world.project, name="b")
    mixed = f"{first.key.prefix}_{second.token.rsplit('_', 1)[-1]}"

    with pytest.raises(NotAuthenticated):
        world.ask(keys.authenticate, mixed)


def test_a_revoked_key_is_refused_at_once(world, stranger):
    made = world.do(keys.create, world.project, name="laptop")
    with pytest.raises(NotFound):
        world.do(keys.revoke, stranger, made.key.id)
    for _ in range(2):
        world.do(keys.revoke, world.project, made.key.id)

    for ask, what in ((keys.authenticate, made.token), (keys.caller_of, made.key.id), (keys.caller_of, "key_x")):
        with pytest.raises(NotAuthenticated):
            world.ask(ask, what)


def test_an_expired_key_is_refused(world):
    past = datetime.now(UTC) - timedelta(seconds=1)
    made = world.do(keys.create, world.project, name="old", expires_at=past)

    with pytest.raises(NotAuthenticated):
        world.ask(keys.authenticate, made.token)


def test_a_key_remembers_roughly_when_it_was_used(world):
    made = world.do(keys.create, world.project, name="laptop")
    world.do(keys.touch, made.key.id)
    first = world.ask(keys.list_keys, world.project)[0].last_used_at
    world.do(keys.touch, made.key.id)

    assert first is not None
    assert world.ask(keys.list_keys, world.project)[0].last_used_at == first


def test_an_unknown_scope_is_a_mistake(world):
    with pytest.raises(ValueError, match="unknown scopes"):
        world.do(keys.create, world.project, name="x", scopes=["everything"])
