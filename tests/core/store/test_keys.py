"""API keys."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from core.errors import Conflict, LastAdminKey, NotAuthenticated, NotFound
from core.store import keys


def test_token_identifies_the_caller(world):
    new = world.write(keys.create, world.project, name="laptop", scopes=["read"])

    caller = world.read(keys.authenticate, new.token)

    assert (caller.key_id, caller.project_id, caller.scopes) == (new.key.id, world.project, frozenset({"read"}))
    assert new.token.startswith(f"{new.key.prefix}_")
    assert world.read(keys.load_caller, new.key.id) == caller


def test_secret_is_not_stored(world):
    new = world.write(keys.create, world.project, name="laptop")

    assert new.token.rsplit("_", 1)[-1] not in repr(world.rows())


@pytest.mark.parametrize(
    "change", [lambda t: "", lambda t: "nope", lambda t: t[:-1], lambda t: t + "0", lambda t: t[3:]]
)
def test_malformed_token_is_refused(world, change):
    new = world.write(keys.create, world.project, name="laptop")

    with pytest.raises(NotAuthenticated):
        world.read(keys.authenticate, change(new.token))


def test_wrong_secret_is_refused(world):
    first = world.write(keys.create, world.project, name="a")
    second = world.write(keys.create, world.project, name="b")
    mixed = f"{first.key.prefix}_{second.token.rsplit('_', 1)[-1]}"

    with pytest.raises(NotAuthenticated):
        world.read(keys.authenticate, mixed)


def test_revoked_key_is_refused_immediately(world, other_project):
    new = world.write(keys.create, world.project, name="laptop")
    with pytest.raises(NotFound):
        world.write(keys.revoke, other_project, new.key.id)
    for _ in range(2):
        world.write(keys.revoke, world.project, new.key.id)

    for function, argument in (
        (keys.authenticate, new.token),
        (keys.load_caller, new.key.id),
        (keys.load_caller, "key_x"),
    ):
        with pytest.raises(NotAuthenticated):
            world.read(function, argument)


def test_expired_key_is_refused(world):
    past = datetime.now(UTC) - timedelta(seconds=1)
    new = world.write(keys.create, world.project, name="old", expires_at=past)

    with pytest.raises(NotAuthenticated):
        world.read(keys.authenticate, new.token)


def test_last_use_is_recorded_at_most_once_a_minute(world):
    new = world.write(keys.create, world.project, name="laptop")
    world.write(keys.touch, new.key.id)
    first = world.read(keys.list_keys, world.project)[0].last_used_at
    world.write(keys.touch, new.key.id)

    assert first is not None
    assert world.read(keys.list_keys, world.project)[0].last_used_at == first


def test_unknown_scope_raises(world):
    with pytest.raises(ValueError, match="unknown scopes"):
        world.write(keys.create, world.project, name="x", scopes=["everything"])


def test_scope_includes_lower_scopes():
    def included(*scopes):
        caller = keys.Caller("key_x", "prj_x", frozenset(scopes))
        return [scope for scope in keys.SCOPES if caller.has_scope(scope)]

    assert [included("read"), included("write"), included("admin"), included()] == [
        ["read"],
        ["read", "write"],
        ["read", "write", "admin"],
        [],
    ]


def test_rotated_key_stays_active_for_the_overlap(world):
    old = world.write(keys.create, world.project, name="laptop", scopes=["read"])
    new = world.write(keys.rotate, world.project, old.key.id, overlap=timedelta(hours=1))

    assert (new.key.name, new.key.scopes, new.key.replaces) == ("laptop", ["read"], old.key.id)
    assert new.key.expires_at is None
    assert world.read(keys.authenticate, old.token).key_id == old.key.id
    remaining = world.read(keys.get, world.project, old.key.id).expires_at - datetime.now(UTC)
    assert timedelta(minutes=59) < remaining <= timedelta(hours=1)


def test_rotation_without_overlap_revokes_the_old_key(world):
    old = world.write(keys.create, world.project, name="laptop")
    new = world.write(keys.rotate, world.project, old.key.id, overlap=timedelta(0))

    with pytest.raises(NotAuthenticated):
        world.read(keys.authenticate, old.token)
    assert world.read(keys.authenticate, new.token).key_id == new.key.id


def test_rotation_never_extends_a_key_and_keeps_its_lifetime(world):
    end = datetime.now(UTC) + timedelta(minutes=10)
    old = world.write(keys.create, world.project, name="short", expires_at=end)
    new = world.write(keys.rotate, world.project, old.key.id, overlap=timedelta(days=1))

    assert world.read(keys.get, world.project, old.key.id).expires_at == end
    assert new.key.expires_at - new.key.created_at == pytest.approx(timedelta(minutes=10), abs=timedelta(seconds=5))


def test_inactive_or_rotated_key_cannot_be_rotated(world, other_project):
    revoked, rotated = (world.write(keys.create, world.project, name=name) for name in "ab")
    world.write(keys.revoke, world.project, revoked.key.id)
    successor = world.write(keys.rotate, world.project, rotated.key.id, overlap=timedelta(days=1))

    for key_id, message in ((revoked.key.id, "revoked or expired"), (rotated.key.id, successor.key.id)):
        with pytest.raises(Conflict, match=message):
            world.write(keys.rotate, world.project, key_id, overlap=timedelta(days=1))
    with pytest.raises(NotFound):
        world.write(keys.rotate, other_project, successor.key.id, overlap=timedelta(days=1))


def test_last_active_admin_key_can_be_protected(world):
    past = datetime.now(UTC) - timedelta(seconds=1)
    world.write(keys.create, world.project, name="expired", expires_at=past)
    world.write(keys.create, world.project, name="reader", scopes=["read"])
    last = world.write(keys.create, world.project, name="last")

    with pytest.raises(LastAdminKey, match="create another one first"):
        world.write(keys.revoke, world.project, last.key.id, keep_last_admin=True)
    other = world.write(keys.create, world.project, name="other")
    world.write(keys.revoke, world.project, last.key.id, keep_last_admin=True)
    world.write(keys.revoke, world.project, other.key.id)

    assert all(key.revoked_at or "admin" not in key.scopes or key.expires_at for key in world.read(all_keys, world))


def all_keys(session, world):
    return keys.list_keys(session, world.project)


def test_concurrent_revocations_leave_one_admin_key(world):
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
    new = [world.write(keys.create, world.project, name=name).key.id for name in "abc"]
    world.write(keys.create, other_project, name="other")
    first = world.read(keys.list_page, world.project, limit=2)
    second = world.read(keys.list_page, world.project, limit=2, after=first.items[-1].id)

    assert [key.id for key in (*first.items, *second.items)] == new[::-1]
    assert (first.has_more, second.has_more) == (True, False)
