import pytest

from core.errors import InvalidSpec
from core.models import catalog


def test_search_matches_every_word_and_counts_parameters():
    found = {entry.name: entry for entry in catalog.search("deit_tiny", limit=10)}

    assert found["deit_tiny_patch16_224"].parameters == 5_717_416
    assert found["deit_tiny_patch16_224"].input_size == (3, 224, 224)
    assert found["deit_tiny_patch16_224"].pretrained
    assert all("deit_tiny" in name for name in found)


def test_a_name_that_begins_with_the_text_comes_first():
    assert catalog.search("resnet18", limit=3)[0].name == "resnet18"


def test_a_misspelled_name_finds_similar_ones():
    assert catalog.search("vit_tyni", limit=1)[0].name == "vit_tiny_patch16_224"


def test_an_empty_search_lists_from_the_start():
    assert [entry.name for entry in catalog.search("", limit=3)] == list(catalog.architecture_names()[:3])


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("vit_tiny_patch16_224", "transformer"),
        ("deit_tiny_distilled_patch16_224", "transformer"),
        ("swin_tiny_patch4_window7_224", "transformer"),
        ("resnet18", "cnn"),
        ("dla34", "cnn"),
        ("convnext_tiny", "cnn"),
        ("levit_128s", "hybrid"),
        ("mobilenetv4_hybrid_medium", "hybrid"),
        ("mixer_b16_224", "mlp"),
    ],
)
def test_families(name, family):
    assert catalog.family(name) == family


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("swin_s3_tiny_224", True),
        ("potstill_swin", True),
        ("swinv2_tiny_window8_256", False),
        ("vit_tiny_patch16_224", False),
    ],
)
def test_is_swin_means_the_first_version(name, expected):
    assert catalog.is_swin(name) is expected


def test_the_catalog_is_complete():
    entries = catalog.architectures()

    assert len(entries) == len({entry.name for entry in entries}) > 1000
    assert {entry.family for entry in entries} == {"transformer", "cnn", "hybrid", "mlp"}
    assert all(entry.to_json()["parameters"] is None for entry in entries)


def test_a_tag_may_follow_the_name():
    assert catalog.require("vit_tiny_patch16_224.augreg_in21k") == "vit_tiny_patch16_224"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("vit_tyni", "vit_tiny_patch16_224"),
        ("resnet18.foo", "a1_in1k"),
        ("vit_small_patch16_224_in21k", "Its name is vit_small_patch16_224.augreg_in21k now"),
        ("local-dir:/etc", "there is no architecture"),
        ("hf-hub:someone/something", "there is no architecture"),
    ],
)
def test_an_unknown_name_is_refused_with_a_hint(name, hint):
    with pytest.raises(InvalidSpec, match="architecture") as caught:
        catalog.require(name)

    assert caught.value.errors[0].pointer == "/architecture"
    assert hint in caught.value.detail


def test_only_architectures_with_a_fixed_size_take_an_image_size():
    assert catalog.takes_image_size("vit_tiny_patch16_224")
    assert catalog.native_image_size("vit_tiny_patch16_384") == 384
    assert not catalog.takes_image_size("resnet18")
