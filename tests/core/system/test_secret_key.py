"""The secret key from the settings or from its file."""

import threading

from pydantic import SecretStr

from core.settings import Settings


def test_the_secret_in_the_settings_has_precedence(tmp_path):
    assert Settings(home=tmp_path, secret_key=SecretStr("given" * 8)).resolved_secret_key() == "given" * 8
    assert list(tmp_path.iterdir()) == []


def test_the_secret_is_generated_once_and_private(tmp_path):
    settings = Settings(home=tmp_path / "home")

    assert settings.resolved_secret_key() == settings.resolved_secret_key()
    assert (tmp_path / "home" / "secret-key").stat().st_mode & 0o777 == 0o600


def test_concurrent_starts_use_one_secret(tmp_path):
    secrets = []
    threads = [
        threading.Thread(target=lambda: secrets.append(Settings(home=tmp_path).resolved_secret_key())) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(secrets) == 8
    assert len(set(secrets)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["secret-key"]
