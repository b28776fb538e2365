import pytest

from core.export.reason import reason


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[96mThis is step 2/3\x1b[0m of the export", "This is step 2/3 of the export"),
        ("\n\n  ===\nCannot view a tensor\nmore", "Cannot view a tensor"),
        ("no file /srv/app/lib/python3/timm/beit.py at line 3", "no file beit.py at line 3"),
        (r"no file C:\srv\app\beit.py", "no file beit.py"),
        ("\x1b]8;;http://x\x07link\x1b]8;;\x07 broken\x07", "link broken"),
        ("a ratio of 1/2 and s77//4", "a ratio of 1/2 and s77//4"),
        ("see https://pytorch.org/docs/stable", "see https://pytorch.org/docs/stable"),
        ("x" * 400, "x" * 300),
    ],
)
def test_the_first_line_is_plain_text(text, expected):
    assert reason(RuntimeError(text)) == expected


def test_the_cause_is_the_reason():
    cause = ValueError("Cannot view a tensor")
    error = RuntimeError("Failed to decompose the graph")
    error.__cause__ = cause

    assert reason(error) == "Cannot view a tensor"


def test_an_error_without_text_has_its_type():
    assert reason(MemoryError()) == "MemoryError"
