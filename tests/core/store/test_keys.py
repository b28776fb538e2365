"""API keys."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from core.errors import Conflict, LastAdminKey, NotAuthenticated, NotFound
from core.store import keys


def test_a_token_says_who_is_asking(world):
    made = world.write(keys.create, world.project, name="laptop", scopes=["read"])

    caller = world.read(keys.authenticate, made.token)

    assert (caller.key_id, caller.project_id, caller.scopes) == (made.key.id, world.project, frozenset({"read"}))
    assert made.token.startswith(f"{made.key.prefix}_")
    assert world.read(keys.load_caller, made.key.id) == caller


def test_the_secret_is_not_in_the_database(world):
    made = world.write(keys.create, world.project, name="laptop")

    assert made.token.rsplit("_", 1)[-1] not in repr(world.rows())


@pytest.mark.parametrize(
    "change", [lambda t: "", lambda t: "nope", lambda t: t[:-1], lambda t: t + "0", lambda t: t[3:]]
)
def test_what_is_not_the_token_is_refused(world, change):
    made = world.write(keys.create, world.project, name="laptop")

    with pytest.raises(NotAuthenticated):
        world.read(keys.authenticate, change(made.token))


def test_a_wrong_secret_is_refused(world):
    first = world.write(keys.create, world.project, name="a")
    second = world.write(keys.create, world.project, name="b")
    mixed = f"{first.key.prefix}_{second.token.rsplit('_', 1)[-1]}"

    with pytest.raises(NotAuthenticated):
        world.read(keys.authenticate, mixed)


def test_a_revoked_key_is_refused_at_once(world, other_project):
    made = world.write(keys.create, world.project, name="laptop")
    with pytest.raises(NotFound):
        world.write(keys.revoke, other_project, made.key.id)
    for _ in range(2):
        world.write(keys.revoke, world.project, made.key.id)

    for ask, what in ((keys.authenticate, made.token), (keys.load_caller, made.key.id), (keys.load_caller, "key_x")):
        with pytest.raises(NotAuthenticated):
            world.read(ask, what)


def test_an_expired_key_is_refused(world):
    past = datetime.now(UTC) - timedelta(seconds=1)
    made = world.write(keys.create, world.project, name="old", expires_at=past)

    with pytest.raises(NotAuthenticated):
        world.read(keys.authenticate, made.token)


def test_a_key_remembers_roughly_when_it_was_used(world):
    made = world.write(keys.create, world.project, name="laptop")
    world.write(keys.touch, made.key.id)
    first = world.read(keys.list_keys, world.project)[0].last_used_at
    world.write(keys.touch, made.key.id)

    assert first is not None
    assert world.read(keys.list_keys, world.project)[0].last_used_at == first


def test_an_unknown_scope_is_a_mistake(world):
    with pytest.raises(ValueError, match="unknown scopes"):
        world.write(keys.create, world.project, name="x", scopes=["everything"])


def test_a_scope_includes_those_below_it():
    def allowed(*scopes):
        caller = keys.Caller("key_x", "prj_x", frozenset(scopes))
        return [scope for scope in keys.SCOPES if caller.has_scope(scope)]

    assert [allowed("read"), allowed("write"), allowed("admin"), allowed()] == [
        ["read"],
        ["read", "write"],
        ["read", "write", "admin"],
        [],
    ]


def test_a_rotated_key_has_a_successor_and_is_good_for_the_overlap(world):
    old = world.write(keys.create, world.project, name="laptop", scopes=["read"])
    made = world.write(keys.rotate, world.project, old.key.id, overlap=timedelta(hours=1))

    assert (made.key.name, made.key.scopes, made.key.replaces) == ("laptop", ["read"], old.key.id)
    assert made.key.expires_at is None
    assert world.read(keys.authenticate, old.token).key_id == old.key.id
    left = world.read(keys.get, world.project, old.key.id).expires_at - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)


def test_without_an_overlap_the_old_key_ends_at_once(world):
    old = world.write(keys.create, world.project, name="laptop")
    made = world.write(keys.rotate, world.project, old.key.id, overlap=timedelta(0))

    with pytest.raises(NotAuthenticated):
        world.read(keys.authenticate, old.token)
    assert world.read(keys.authenticate, made.token).key_id == made.key.id


def test_rotating_never_makes_a_key_live_longer_and_the_new_one_lives_as_long(world):
    end = datetime.now(UTC) + timedelta(minutes=10)
    old = world.write(keys.create, world.project, name="short", expires_at=end)
    made = world.write(keys.rotate, world.project, old.key.id, overlap=timedelta(days=1))

    assert world.read(keys.get, world.project, old.key.id).expires_at == end
    assert made.key.expires_at - made.key.created_at == pytest.approx(timedelta(minutes=10), abs=timedelta(seconds=5))


def test_what_is_over_or_was_rotated_before_is_not_rotated(world, other_project):
    revoked, rotated = (world.write(keys.create, world.project, name=name) for name in "ab")
    world.write(keys.revoke, world.project, revoked.key.id)
    successor = world.write(keys.rotate, world.project, rotated.key.id, overlap=timedelta(days=1))

    for key_id, word in ((revoked.key.id, "revoked or expired"), (rotated.key.id, successor.key.id)):
        with pytest.raises(Conflict, match=word):
            world.write(keys.rotate, world.project, key_id, overlap=timedelta(days=1))
    with pytest.raises(NotFound):
        world.write(keys.rotate, other_project, successor.key.id, overlap=timedelta(days=1))


def test_the_last_admin_key_in_force_stays_where_that_is_asked(world):
    past = datetime.now(UTC) - timedelta(seconds=1)
    world.write(keys.create, world.project, name="expired", expires_at=past)
    world.write(keys.create, world.project, name="reader", scopes=["read"])
    last = world.write(keys.create, world.project, name="last")

    with pytest.raises(LastAdminKey, match="make another one first"):
        world.write(keys.revoke, world.project, last.key.id, keep_last_admin=True)
    other = world.write(keys.create, world.project, name="other")
    world.write(keys.revoke, world.project, last.key.id, keep_last_admin=True)
    world.write(keys.revoke, world.project, other.key.id)

    assert all(key.revoked_at or "admin" not in key.scopes or key.expires_at for key in world.read(all_keys, world))


def all_keys(session, world):
    return keys.list_keys(session, world.project)


def test_two_who_revoke_each_other_s_key_at_once_leave_one(world):
    admins = [world.write(keys.create, world.project, name=name).key.id for name in "ab"]
    refused, start = [], threading.Barrier(2)

    def revoke(key_id):
        start.wait()
        try:
            world.write(keys.revoke, world.project, key_id, keep_last_admin=True)
        except LastAdminKey:
            refused.append(key_id)

    threads = [threading.Thread(target=revoke, args=(key_id,)) for key_id in admins]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(refused) == 1


def test_keys_are_paged_newest_first(world, other_project):
    made = [world.write(keys.create, world.project, name=name).key.id for name in "abc"]
    world.write(keys.create, other_project, name="theirs")
    first = world.read(keys.list_page, world.project, limit=2)
    second = world.read(keys.list_page, world.project, limit=2, after=first.items[-1].id)

    assert [key.id for key in (*first.items, *second.items)] == made[::-1]
    assert (first.has_more, second.has_more) == (True, False)
