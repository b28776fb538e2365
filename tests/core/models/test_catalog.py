import json

import pytest
import timm
from timm.models import get_deprecated_models, get_pretrained_cfg, list_models

from benchmarks.architecture_costs import count_cost
from core.errors import InvalidSpec
from core.models import catalog
from core.models.architecture_costs import COSTS, counted_costs


def test_search_matches_every_word_and_counts_parameters():
    found = {entry.name: entry for entry in catalog.search("deit_tiny", limit=10)}

    assert found["deit_tiny_patch16_224"].parameters == 5_717_416
    assert found["deit_tiny_patch16_224"].input_size == (3, 224, 224)
    assert found["deit_tiny_patch16_224"].pretrained
    assert all("deit_tiny" in name for name in found)


def test_counted_costs_are_those_of_the_installed_timm():
    assert json.loads(COSTS.read_text())["timm"] == timm.__version__, "run python -m benchmarks architecture_costs"
    assert [name for name in catalog.architecture_names() if name not in counted_costs()] == []
    for name in ("vit_tiny_patch16_224", "resnet10t"):
        found = catalog.info(name)
        assert (found.parameters, found.flops) == count_cost(name)


def test_a_name_that_begins_with_the_text_comes_first():
    assert catalog.search("vit small", limit=1)[0].name.startswith("vit_small")
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
    assert sum(entry.parameters is None or entry.flops is None for entry in entries) < 10


def test_a_tag_may_follow_the_name():
    assert catalog.require("vit_tiny_patch16_224.augreg_in21k") == "vit_tiny_patch16_224"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("vit_tyni", "vit_tiny_patch16_224"),
        ("resnet18.foo", "a1_in1k"),
        ("local-dir:/etc", "there is no architecture"),
        ("hf-hub:someone/something", "there is no architecture"),
    ],
)
def test_an_unknown_name_is_refused_with_a_hint(name, hint):
    with pytest.raises(InvalidSpec, match="architecture") as caught:
        catalog.require(name)

    assert caught.value.errors[0].pointer == "/architecture"
    assert hint in caught.value.detail


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("vit_small_patch16_224_in21k", "vit_small_patch16_224.augreg_in21k"),
        ("convnext_tiny_in22k", "convnext_tiny.fb_in22k"),
        ("vit_tiny_patch16_224.augreg_in21k", "vit_tiny_patch16_224.augreg_in21k"),
        ("resnet18", "resnet18"),
    ],
)
def test_a_renamed_architecture_is_known_by_both_names(name, canonical):
    assert catalog.canonical_name(name) == canonical
    assert catalog.require(name) == canonical.partition(".")[0]


def test_every_renamed_architecture_leads_to_a_known_one():
    renamed = get_deprecated_models()
    shortened = {  # timm's table lacks the end of these tags
        "vit_base_patch16_224_sam": "vit_base_patch16_224.sam_in1k",
        "vit_base_patch32_224_sam": "vit_base_patch32_224.sam_in1k",
    }

    assert len(renamed) > 100
    assert {name: catalog.canonical_name(name) for name in renamed} == {**renamed, **shortened}


def test_all_checkpoints_on_the_hub_can_be_loaded_and_no_others():
    """Those of augreg, SAM, BiT and FlexiViT too, whose original files are NumPy archives."""
    cfgs = {name: cfg for name in list_models(include_tags=True) if (cfg := get_pretrained_cfg(name)) is not None}
    custom = [name for name, cfg in cfgs.items() if cfg.custom_load]

    assert len(custom) == 65
    assert all(catalog.has_pretrained(name) for name in custom)
    assert {name for name in cfgs if catalog.has_pretrained(name)} == {n for n, cfg in cfgs.items() if cfg.hf_hub_id}


def test_weights_that_exist_only_as_a_pickle_are_not_offered():
    entry = catalog.info("gcvit_xxtiny")

    assert not entry.pretrained
    assert entry.pretrained_tags == ()
    assert catalog.require("gcvit_xxtiny.in1k") == "gcvit_xxtiny"  # an upload may still name the tag
    assert "only as a pickle" in catalog.no_weights_reason("gcvit_xxtiny")
    assert "POST /v1/models" in catalog.no_weights_reason("gcvit_xxtiny.in1k")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", "apache-2.0"),
        ("vit_base_patch16_224.mae", "cc-by-nc-4.0"),
        ("vit_tiny_patch16_224_in21k", "apache-2.0"),
        ("vit_small_patch16_dinov3.lvd1689m", "dinov3-license"),
        ("potstill_vit", None),
    ],
)
def test_the_license_is_that_of_the_weights(name, expected):
    assert catalog.license(name) == expected


def test_the_catalog_lists_the_license_of_each_tag():
    entry = catalog.info("vit_base_patch16_224").to_json()

    assert entry["license"] == "apache-2.0"
    assert entry["licenses"]["mae"] == "cc-by-nc-4.0"
    assert set(entry["licenses"]) == set(entry["pretrained_tags"])


def test_only_architectures_with_a_fixed_size_take_an_image_size():
    assert catalog.takes_image_size("vit_tiny_patch16_224")
    assert catalog.native_image_size("vit_tiny_patch16_384") == 384
    assert not catalog.takes_image_size("resnet18")
