"""The pages of SDK and command line name what exists."""

import re
from functools import cache
from pathlib import Path

import typer.main

from potstill import Potstill, errors
from potstill.cli.app import app
from potstill.cli.routes import COMMANDS

DOCS = Path(__file__).parents[2] / "docs"
CLI, SDK = (DOCS / "cli.md").read_text(), (DOCS / "sdk.md").read_text()
README = (DOCS.parent / "README.md").read_text()


@cache
def root_command():
    return typer.main.get_command(app)


def find_command(words):
    """The command that the words lead to, with the options they name."""
    command = root_command()
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return command, {word.partition("=")[0] for word in words if word.startswith("--")} - options


def test_every_command_in_the_pages_exists():
    lines = re.findall(r"^(?:\.venv/bin/)?potstill (.+?)(?:  +#.*)?$", CLI + README, flags=re.MULTILINE)
    assert len(lines) >= 8

    for line in [*lines, *COMMANDS.values()]:
        command, unknown = find_command(line.split())
        assert (getattr(command, "commands", None) is None or line.startswith("-"), unknown) == (True, set()), line


def test_every_command_is_in_the_page():
    groups = {name: getattr(command, "commands", {}) for name, command in root_command().commands.items()}

    assert [name for name in groups if f"`{name}" not in CLI and f" {name}" not in CLI] == []
    assert [
        f"{group} {name}"
        for group, commands in groups.items()
        for name in commands
        if not re.search(rf"`{name}\b|`{group} {name}\b", CLI)
    ] == []


def test_the_resources_in_the_page_are_those_of_the_client():
    rows = re.findall(r"^\| (`client\.[^|]+) \| ([^|]+) \|", SDK, flags=re.MULTILINE)
    with Potstill("http://service", "ps_1") as client:
        resources = {name for name, value in vars(client).items() if hasattr(value, "_transport")}
        named = {name for cell, _ in rows for name in re.findall(r"client\.(\w+)", cell)}
        for cell, methods in rows:
            names = re.findall(r"client\.(\w+)", cell)
            for method in re.findall(r"`(\w+)`", methods):
                assert any(hasattr(getattr(client, name), method) for name in names), method

    assert named == resources


def test_the_errors_in_the_page_exist():
    section = SDK.partition("## Errors")[2]

    assert [name for name in re.findall(r"`([A-Z]\w+)`", section) if not hasattr(errors, name)] == []
