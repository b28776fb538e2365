"""Secrets are derived from the secret key; the database is not enough to sign."""

import base64
from datetime import timedelta

import pytest

from core.store import webhooks
from core.store.db import utc_now

KEY, OTHER_KEY = "k" * 32, "o" * 32


def create(world):
    return world.write(webhooks.create, world.project, url="https://example.com", events=["*"], secret_key=KEY)


def secrets_at(world, webhook_id, later=timedelta(0), key=KEY):
    webhook = world.read(webhooks.get, world.project, webhook_id)
    return webhooks.signing_secrets(key, webhook, world.read(utc_now) + later)


def test_a_secret_is_derived_again_and_not_stored(world):
    new = create(world)

    assert secrets_at(world, new.webhook.id) == [new.secret]
    assert new.secret.startswith("whsec_")
    assert len(base64.b64decode(new.secret.removeprefix("whsec_"))) == 32
    assert new.secret[6:] not in str(world.rows())


def test_each_webhook_has_its_own_secret(world):
    assert create(world).secret != create(world).secret


def test_after_a_rotation_both_secrets_sign_until_the_overlap_ends(world):
    old = create(world)
    options = {"secret_key": KEY, "overlap": timedelta(hours=1)}
    new = world.write(webhooks.rotate, world.project, old.webhook.id, **options)

    assert secrets_at(world, old.webhook.id) == [new.secret, old.secret]
    assert secrets_at(world, old.webhook.id, timedelta(hours=2)) == [new.secret]


def test_a_rotation_without_overlap_ends_the_old_secret(world):
    old = create(world)
    new = world.write(webhooks.rotate, world.project, old.webhook.id, secret_key=KEY, overlap=timedelta(0))

    assert secrets_at(world, old.webhook.id) == [new.secret]


def test_another_secret_key_is_noticed_and_a_rotation_repairs_it(world):
    webhook_id = create(world).webhook.id
    with pytest.raises(webhooks.SecretKeyChanged, match="rotate the secret"):
        secrets_at(world, webhook_id, key=OTHER_KEY)

    new = world.write(webhooks.rotate, world.project, webhook_id, secret_key=OTHER_KEY, overlap=timedelta(hours=1))
    assert secrets_at(world, webhook_id, key=OTHER_KEY) == [new.secret]
