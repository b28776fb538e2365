import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ingest.paths import NotAccepted, check_suffix, clean_label, clean_path, printable_name


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("train/cat/1.png", "train/cat/1.png"),
        ("./train//cat/./1.png", "train/cat/1.png"),
        ("train\\cat\\1.png", "train/cat/1.png"),
        ("cafe\u0301/1.png", "caf\u00e9/1.png"),  # as macOS and as Linux write the same name
    ],
)
def test_paths_are_normalized(name, path):
    assert clean_path(name) == path


@pytest.mark.parametrize(
    "name",
    ["__MACOSX/train/._1.png", ".DS_Store", "train/.hidden/1.png", "a/Thumbs.db", "desktop.ini", "", "./"],
)
def test_system_files_are_ignored(name):
    assert clean_path(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "../x.png",
        "../../x.png",
        "a/../../x.png",
        "a/../b.png",
        "/etc/x.png",
        "C:\\x.png",
        "c:x.png",
        "..\\x.png",
        "\\x.png",
    ],
)
def test_a_path_that_leads_outside_is_not_accepted(name):
    with pytest.raises(NotAccepted, match="leads outside"):
        clean_path(name)


@pytest.mark.parametrize("name", ["a\x00b.png", "a\nb.png", "a\udcffb.png", "x" * 2000 + ".png"])
def test_a_path_that_cannot_be_stored_is_not_accepted(name):
    with pytest.raises(NotAccepted):
        clean_path(name)


@given(st.text(max_size=40))
def test_a_clean_path_is_relative_and_idempotent(name):
    try:
        path = clean_path(name)
    except NotAccepted:
        return
    if path is not None:
        assert not path.startswith("/")
        assert not {"", ".", ".."} & set(path.split("/"))
        assert clean_path(path) == path


@pytest.mark.parametrize("path", ["a/1.jpg", "a/1.JPEG", "1.tiff", "a.b/c.Png", "a/x.tar.png"])
def test_image_names_are_accepted(path):
    check_suffix(path, 1)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("a/inner.zip", "unpack it first"),
        ("a/x.tar.gz", "unpack it first"),
        ("labels.csv", r"accepted: \.avif, \.bmp"),
        ("README", "no image suffix"),
        ("a.png/README", "no image suffix"),
    ],
)
def test_names_without_an_image_suffix_are_not_accepted(path, reason):
    with pytest.raises(NotAccepted, match=reason):
        check_suffix(path, 1)


@given(st.text(alphabet=st.characters(), max_size=400))
def test_a_printable_name_is_printable_and_short(name):
    text = printable_name(name)

    assert text.isprintable()
    assert len(text) <= 300
    text.encode()


def test_labels_are_normalized():
    assert clean_label(" cafe\u0301 ") == "caf\u00e9"


@pytest.mark.parametrize("text", ["", "  ", "a\0b", "a\udcffb", "x" * 201])
def test_a_label_that_cannot_be_stored_is_not_accepted(text):
    with pytest.raises(NotAccepted, match="label"):
        clean_label(text)
