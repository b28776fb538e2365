"""Service URL and API key: from the arguments, else from the environment, else from ``potstill login``."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from potstill.errors import NotConfigured

URL_VARIABLE = "POTSTILL_URL"
KEY_VARIABLE = "POTSTILL_API_KEY"


@dataclass(frozen=True, slots=True)
class Connection:
    """URL of a service and an API key."""

    url: str
    api_key: str


def configuration_file() -> Path:
    """Path of the configuration file, in ``XDG_CONFIG_HOME`` or ``~/.config``."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "potstill" / "config.json"


def find_connection(url: str | None = None, api_key: str | None = None) -> Connection:
    """Return the connection. What is not given comes from the environment, then from the login.

    The saved key is used only for the URL that it was saved with. Raises :class:`NotConfigured`.
    """
    url = (url or os.environ.get(URL_VARIABLE) or "").rstrip("/")
    api_key = api_key or os.environ.get(KEY_VARIABLE)
    path = configuration_file()
    if not (url and api_key) and path.exists():
        saved = _read(path)
        if not url or url == saved.url:
            url, api_key = saved.url, api_key or saved.api_key
    if not url or not api_key:
        missing = KEY_VARIABLE if url else URL_VARIABLE if api_key else f"{URL_VARIABLE} and {KEY_VARIABLE}"
        raise NotConfigured(f"run `potstill login` first, or set {missing}")
    return Connection(url, api_key)


def save_connection(connection: Connection) -> Path:
    """Save the connection in a file that only its owner can read."""
    path = configuration_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with create_private_file(temporary) as file:
        json.dump(asdict(connection), file, indent=2)
    temporary.replace(path)
    return path


def create_private_file(path: Path) -> TextIO:
    """Create a file that only its owner can read, and open it. Raises ``FileExistsError``."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w")


def _read(path: Path) -> Connection:
    try:
        document = json.loads(path.read_text())
        return Connection(url=document["url"], api_key=document["api_key"])
    except (ValueError, KeyError, TypeError) as error:
        raise NotConfigured(f"{path} cannot be read ({error}); run `potstill login` again") from error
