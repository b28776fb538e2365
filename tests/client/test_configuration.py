import pytest

from potstill.configuration import Connection, configuration_file, find_connection, save_connection
from potstill.errors import NotConfigured


@pytest.fixture(autouse=True)
def _own_home(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("POTSTILL_URL", raising=False)
    monkeypatch.delenv("POTSTILL_API_KEY", raising=False)


def test_a_saved_connection_is_loaded_and_private():
    path = save_connection(Connection("http://a", "ps_1"))

    assert find_connection() == Connection("http://a", "ps_1")
    assert path.stat().st_mode & 0o777 == 0o600


def test_arguments_win_over_the_environment_which_wins_over_the_file(monkeypatch):
    save_connection(Connection("http://a", "ps_1"))
    monkeypatch.setenv("POTSTILL_API_KEY", "ps_2")

    assert find_connection() == Connection("http://a", "ps_2")
    assert find_connection(api_key="ps_3") == Connection("http://a", "ps_3")
    assert find_connection("http://a/") == Connection("http://a", "ps_2")


def test_the_saved_key_is_not_sent_to_another_service(monkeypatch):
    save_connection(Connection("http://a", "ps_1"))
    monkeypatch.setenv("POTSTILL_URL", "http://b")

    with pytest.raises(NotConfigured, match="set POTSTILL_API_KEY"):
        find_connection()


def test_a_missing_configuration_names_login():
    with pytest.raises(NotConfigured, match="potstill login"):
        find_connection()


def test_a_damaged_file_is_reported():
    configuration_file().parent.mkdir(parents=True)
    configuration_file().write_text("{")

    with pytest.raises(NotConfigured, match=r"config\.json cannot be read"):
        find_connection()
