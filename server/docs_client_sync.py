"""Generate the synchronous client from the asynchronous one: `async` and `await` go, and names change."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import unasync

from server.docs_client import PACKAGE

SOURCE = PACKAGE / "_async"
TARGET = PACKAGE / "_sync"
_HAND_WRITTEN = frozenset({"__init__.py", "runtime.py"})
_CLASS = re.compile(r"\bAsync[A-Z]\w*")
_NAMES = {
    "_async": "_sync",
    "AsyncIterator": "Iterator",
    "AsyncExitStack": "ExitStack",
    "asynccontextmanager": "contextmanager",
    "aclose": "close",
    "aread": "read",
    "aiter_bytes": "iter_bytes",
    "aiter_lines": "iter_lines",
}


def sync_modules() -> dict[str, str]:
    """Return the source of the synchronous modules by file name."""
    sources = {path.name: path.read_text() for path in SOURCE.glob("*.py") if path.name not in _HAND_WRITTEN}
    classes = {name for text in sources.values() for name in _CLASS.findall(text)}
    names = {name: name.removeprefix("Async") for name in classes} | _NAMES
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "_async"), Path(folder, "_sync")
        source.mkdir()
        for name, text in sources.items():
            # Names in docstrings are part of one token, so unasync does not see them.
            text = re.sub(r"(:(?:class|meth):`)Async", r"\1", text)  # noqa: PLW2901
            (source / name).write_text(f"# Generated from `potstill._async` by `make docs`; do not edit.\n{text}")
        rule = unasync.Rule(f"{source}/", f"{target}/", additional_replacements=names)
        unasync.unasync_files([str(path) for path in source.iterdir()], [rule])
        return {path.name: _formatted(path.read_text()) for path in sorted(target.iterdir())}


def _formatted(source: str) -> str:
    """Sort the imports, whose names have changed, and wrap the lines."""
    ruff = str(Path(sys.executable).with_name("ruff"))
    name = ["--stdin-filename", str(TARGET / "module.py"), "-"]
    for command in (["check", "--quiet", "--fix-only", "--select", "I"], ["format"]):
        result = subprocess.run([ruff, *command, *name], input=source, capture_output=True, text=True, check=True)  # noqa: S603
        source = result.stdout
    return source
