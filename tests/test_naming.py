"""Names of files, classes and functions use the standard terms of docs/glossary.md, not private words."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("api", "worker", "core", "server", "client", "potstill_models", "supply", "benchmarks", "tests")
DEFINITION = re.compile(r"\s*(?:async\s+)?(?:def|class)\s+(\w+)")  # much faster than parsing all files

# A private word as a whole word of a name (`asked_views`, `AskedViews`), and the term that replaces it.
PRIVATE_WORDS = {
    "anatomy": "structure",
    "anatomies": "structures",
    "anew": "again, or a verb with re-",
    "arithmetic": "compute",
    "asked": "requested, request, cache_key",
    "beside": "temporary, adjacent, background",
    "confinement": "sandbox",
    "faultpoint": "fault_point",
    "faultpoints": "fault_injection",
    "guardian": "monitor",
    "guesses": "auth_throttle",
    "impatience": "timeout",
    "impatient": "timeout",
    "intake": "ingest",
    "kept": "cached, saved, retained",
    "landed": "status_values",
    "landing": "next_status",
    "lastwords": "log_tail",
    "led": "launch",
    "lesson": "training",
    "lessons": "pending_trainings",
    "lifeline": "parent_death",
    "parted": "shard",
    "picture": "image",
    "pictures": "images",
    "reaper": "scheduler",
    "said": "outputs",
    "says": "outputs, returns",
    "strangers": "untrusted",
    "tally": "stats",
    "taught": "teacher_outputs",
    "told": "reported, events",
    "whence": "source",
    "whoever": "the noun it is",
    "wish": "control, request",
    "wishes": "requests",
}
# Private as a whole name only: each has a plain use inside of longer names.
PRIVATE_NAMES = {
    "about": "a verb phrase, or info",
    "heart": "heartbeat",
    "joined": "init_process_group",
    "known": "drain_ready, or the noun it is",
    "lifelines": "parent_death",
    "look": "read, poll, evaluate, validate",
    "moment": "info, timestamp",
    "of": "from_x",
    "opened": "open_run",
    "room": "context, available_bytes",
    "settle": "finalize",
    "settled": "drain_all",
    "sizing": "estimate",
    "tale": "log",
}


def words(name):
    """The words of a snake_case or CamelCase name, in lower case."""
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    return [word for word in spaced.lower().split("_") if word]


def names():
    """Each file, class and function of the project: (place, name)."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            place = str(path.relative_to(ROOT))
            yield place, path.stem
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                if definition := DEFINITION.match(line):
                    yield f"{place}:{number}", definition[1]


def private_terms(name):
    """Each private word of a name, with the standard term."""
    whole = name.strip("_").lower()
    found = {word: PRIVATE_WORDS[word] for word in words(name) if word in PRIVATE_WORDS}
    return found | ({whole: PRIVATE_NAMES[whole]} if whole in PRIVATE_NAMES else {})


def test_names_use_the_standard_terms():
    refused = [
        f"{place}: {name}: say {term} instead of {word}"
        for place, name in names()
        for word, term in private_terms(name).items()
    ]

    assert refused == [], "\n".join(["see docs/glossary.md", *refused])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("asked_views", ["asked", "views"]), ("_KeptInputs", ["kept", "inputs"]), ("HTTPServer2", ["httpserver2"])],
)
def test_a_name_is_split_into_its_words(name, expected):
    assert words(name) == expected


def test_a_percent_sign_follows_a_space():
    """Pages, documents and output write "95 %", as the glossary and most documents do."""
    texts = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "api").rglob("*.html")]
    code = [
        path for package in ("api", "core", "client", "server", "worker") for path in (ROOT / package).rglob("*.py")
    ]
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for paths, pattern in ((texts, r"\d%(?![\w;\"])|\}\}%"), (code, r":\.\d%\}"))
        for path in paths
        for match in re.finditer(pattern, path.read_text(encoding="utf-8"))
    ]

    assert found == []
