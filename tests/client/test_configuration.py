import pytest

from client.configuration import Connection, configuration_file, load_connection, save_connection
from client.errors import NotConfigured


@pytest.fixture(autouse=True)
def _own_home(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("POTSTILL_URL", raising=False)
    monkeypatch.delenv("POTSTILL_API_KEY", raising=False)


def test_a_saved_connection_is_loaded_and_private():
    path = save_connection(Connection("http://a", "ps_1"))

    assert load_connection() == Connection("http://a", "ps_1")
    assert path.stat().st_mode & 0o777 == 0o600


def test_environment_variables_override_the_file(monkeypatch):
    save_connection(Connection("http://a", "ps_1"))
    monkeypatch.setenv("POTSTILL_URL", "http://b")

    assert load_connection() == Connection("http://b", "ps_1")


def test_a_missing_configuration_names_login():
    with pytest.raises(NotConfigured, match="potstill login"):
        load_connection()


def test_a_damaged_file_is_reported():
    configuration_file().parent.mkdir(parents=True)
    configuration_file().write_text("{")

    with pytest.raises(NotConfigured, match=r"config\.json cannot be read"):
        load_connection()
