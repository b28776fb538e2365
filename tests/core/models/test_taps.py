"""Captured features are those of a plain run, and capturing changes nothing."""

from dataclasses import dataclass
from functools import cache

import pytest
import timm
import torch
from torch import nn

from core.models.taps import Attention, Feature, FeatureRequest, Outputs, run_tapped
from potstill_models.attention import SizedAttention
from tests.support.features import all_tokens

VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}
SWIN = {"img_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 2}


@dataclass(frozen=True)
class Family:
    """A tiny network: number of levels, of prefix tokens and of attentions that can be captured."""

    architecture: str
    arguments: dict
    size: int
    levels: int
    prefixes: int = 0
    attentions: int = 0


FAMILIES = {
    "vit": Family("vit_tiny_patch16_224", VIT, 16, levels=3, prefixes=1, attentions=3),
    "vit without class token": Family(
        "vit_tiny_patch16_224", {**VIT, "class_token": False, "global_pool": "avg"}, 16, levels=3, attentions=3
    ),
    "vit with registers": Family("vit_tiny_patch16_224", {**VIT, "reg_tokens": 2}, 16, 3, prefixes=3, attentions=3),
    "deit distilled": Family("deit_tiny_distilled_patch16_224", VIT, 16, levels=3, prefixes=2, attentions=3),
    "cait": Family("cait_xxs24_224", VIT, 16, levels=3, attentions=3),
    "swin": Family("swin_tiny_patch4_window7_224", SWIN, 16, levels=2, attentions=3),
    "shared swin": Family(
        "potstill_swin",
        {**SWIN, "depths": [2, 2], "repeats": 2, "head_transforms": True, "local_convolution": True},
        16,
        levels=2,
        attentions=4,
    ),
    "convnext": Family("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [4, 8, 12, 16]}, 32, levels=4),
    "resnet": Family("resnet10t", {"channels": (4, 8, 12, 16), "stem_width": 4}, 32, levels=5),
    "regnet": Family("regnetx_002", {}, 32, levels=5),
}
PLAIN_ATTENTION = ["vit", "vit without class token", "vit with registers", "deit distilled"]

every_family = pytest.mark.parametrize("name", FAMILIES)


@cache
def network(name):
    torch.manual_seed(0)
    family = FAMILIES[name]
    module = timm.create_model(family.architecture, num_classes=4, in_chans=1, **family.arguments)
    with torch.no_grad():
        for parameter in module.parameters():  # what starts at zero (tokens, CaiT's scales) has to count as well
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module.eval()


def images(name):
    size = FAMILIES[name].size
    return torch.rand(2, 1, size, size, generator=torch.Generator().manual_seed(3))


def everything(name):
    family = FAMILIES[name]
    levels, attentions = tuple(range(family.levels)), tuple(range(family.attentions))
    return FeatureRequest(levels=levels, last=True, embedding=True, attentions=attentions)


def tap(name, **wanted):
    return run_tapped(network(name), images(name), FeatureRequest(**wanted) if wanted else everything(name))


def seen_by_hooks(name, *parts):
    """Outputs of the named modules in a plain run, and its logits."""
    module, found = network(name), []
    hooks = [
        module.get_submodule(part).register_forward_hook(lambda _module, _inputs, output: found.append(output))
        for part in parts
    ]
    try:
        logits = module(images(name))
    finally:
        for hook in hooks:
            hook.remove()
    return found, logits


@every_family
def test_captured_features_do_not_change_the_logits(name):
    plain = network(name)(images(name))

    torch.testing.assert_close(tap(name).logits, plain, rtol=1e-6, atol=1e-6)
    assert plain.std() > 1e-4


@every_family
@pytest.mark.parametrize("part", ["levels", "last", "embedding", "attentions"])
def test_each_tensor_can_be_requested_separately(name, part):
    whole = everything(name)
    wanted = FeatureRequest(**{part: getattr(whole, part)})

    found = run_tapped(network(name), images(name), wanted)

    torch.testing.assert_close(found.logits, network(name)(images(name)), rtol=1e-6, atol=1e-6)
    assert list(found.levels) == list(wanted.levels)
    assert (found.last is not None, found.embedding is not None) == (wanted.last, wanted.embedding)
    assert list(found.attentions) == list(wanted.attentions)


@every_family
def test_levels_separate_grid_tokens_from_prefix_tokens(name):
    family, found = FAMILIES[name], tap(name)

    for feature in found.levels.values():
        size, tokens, width = feature.tokens.shape
        assert (size, tokens) == (2, feature.grid[0] * feature.grid[1])
        assert feature.map.shape == (2, width, *feature.grid)
        assert (0 if feature.prefix is None else feature.prefix.shape[1]) == family.prefixes
        assert all_tokens(feature).shape == (2, family.prefixes + tokens, width)


@pytest.mark.parametrize("name", PLAIN_ATTENTION)
def test_levels_of_a_vit_are_the_outputs_of_its_blocks(name):
    blocks, _ = seen_by_hooks(name, "blocks.0", "blocks.1", "blocks.2")

    found = tap(name, levels=(0, 1, 2))

    for index, block in enumerate(blocks):
        torch.testing.assert_close(all_tokens(found.levels[index]), block)


def test_levels_of_cait_are_the_outputs_of_its_patch_blocks():
    blocks, _ = seen_by_hooks("cait", "blocks.0", "blocks.2")

    found = tap("cait", levels=(0, 2))

    torch.testing.assert_close(found.levels[0].tokens, blocks[0])
    torch.testing.assert_close(found.levels[2].tokens, blocks[1])


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("resnet", ["act1", "layer1", "layer2", "layer3", "layer4"]),
        ("regnet", ["stem", "s1", "s2", "s3", "s4"]),
        ("convnext", ["stages.0", "stages.1", "stages.2", "stages.3"]),
    ],
)
def test_levels_of_a_cnn_are_the_outputs_of_its_stages(name, parts):
    stages, _ = seen_by_hooks(name, *parts)

    found = tap(name)

    assert len(found.levels) == len(stages)
    for index, stage in enumerate(stages):
        torch.testing.assert_close(found.levels[index].map, stage)


def test_levels_of_a_swin_are_the_outputs_of_its_stages():
    stages, _ = seen_by_hooks("swin", "layers.0", "layers.1")

    found = tap("swin")

    for index, stage_BHWD in enumerate(stages):
        torch.testing.assert_close(found.levels[index].map, stage_BHWD.permute(0, 3, 1, 2))


@every_family
@pytest.mark.parametrize("index", [0, 1])
def test_a_single_level_equals_the_one_among_all(name, index):
    alone, among = tap(name, levels=(index,)).levels[index], tap(name).levels[index]

    torch.testing.assert_close(all_tokens(alone), all_tokens(among))


def test_the_last_features_of_a_vit_follow_its_norm():
    (normed,), _ = seen_by_hooks("vit", "norm")

    last = tap("vit").last

    torch.testing.assert_close(all_tokens(last), normed)
    assert last.grid == (4, 4)


def test_the_last_features_of_cait_start_with_the_class_token():
    (normed,), _ = seen_by_hooks("cait", "norm")

    last = tap("cait").last

    torch.testing.assert_close(all_tokens(last), normed)
    assert last.prefix.shape == (2, 1, 16)


def test_the_last_features_of_a_swin_are_in_row_major_order():
    (normed_BHWD,), _ = seen_by_hooks("swin", "norm")

    torch.testing.assert_close(tap("swin").last.tokens, normed_BHWD.flatten(1, 2))


def test_the_last_features_of_a_resnet_are_its_last_stage():
    (stage,), _ = seen_by_hooks("resnet", "layer4")

    torch.testing.assert_close(tap("resnet").last.map, stage)


@pytest.mark.parametrize("name", ["resnet", "regnet", "swin", "vit without class token"])
def test_pooled_last_features_are_the_embedding(name):
    found = tap(name)
    between = getattr(network(name), "fc_norm", None) or nn.Identity()

    torch.testing.assert_close(between(found.last.pooled), found.embedding)


@every_family
def test_the_embedding_is_the_input_of_the_classifier(name):
    found = tap(name, embedding=True)
    classifier = network(name).get_classifier()
    head = classifier[0] if isinstance(classifier, tuple) else classifier

    logits = head(found.embedding)

    if name == "deit distilled":  # its answer is the mean of two heads
        (read,), _ = seen_by_hooks(name, "head")
        torch.testing.assert_close(logits, read)
    else:
        torch.testing.assert_close(logits, found.logits)


def test_a_distilled_vit_in_training_has_separate_heads():
    module = network("deit distilled")
    module.set_distilled_training(True)
    module.train()
    try:
        found = tap("deit distilled", levels=(2,), embedding=True)
        heads = module(images("deit distilled"))
    finally:
        module.set_distilled_training(False)
        module.eval()

    torch.testing.assert_close(found.logits, heads[0])
    torch.testing.assert_close(found.token_logits[0], heads[1])
    torch.testing.assert_close(module.head(found.embedding), found.logits)


@pytest.mark.parametrize("name", PLAIN_ATTENTION)
def test_attention_weights_are_those_of_the_blocks(name):
    module, (returned, *_) = network(name), seen_by_hooks(name, "blocks.1.attn")

    seen = tap(name).attentions[1]

    value_BhTd = seen.value.unflatten(2, (seen.heads, -1)).transpose(1, 2)
    mixed = (seen.weights @ value_BhTd).transpose(1, 2).flatten(2)
    torch.testing.assert_close(module.blocks[1].attn.proj(mixed), returned[0], rtol=1e-4, atol=1e-5)
    assert seen.weights.shape == (2, 2, *[16 + FAMILIES[name].prefixes] * 2)


def test_attention_weights_with_normalized_queries_and_keys():
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", num_classes=4, in_chans=1, qk_norm=True, **VIT).eval()
    outputs = []
    module.blocks[0].attn.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))

    seen = run_tapped(module, images("vit"), FeatureRequest(attentions=(0,))).attentions[0]

    value_BhTd = seen.value.unflatten(2, (2, -1)).transpose(1, 2)
    mixed = (seen.weights @ value_BhTd).transpose(1, 2).flatten(2)
    torch.testing.assert_close(module.blocks[0].attn.proj(mixed), outputs[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "architecture",
    [
        "vit_small_patch16_dinov3",  # rotates queries and keys by their positions
        "vit_relpos_small_patch16_224",  # adds a bias to the logits
    ],
)
def test_an_attention_with_additional_terms_has_no_weights(architecture):
    module = timm.create_model(architecture, num_classes=4, in_chans=1, **VIT).eval()

    seen = run_tapped(module, images("vit"), FeatureRequest(attentions=(0, 1, 2))).attentions

    assert [attention.weights for attention in seen.values()] == [None] * 3
    assert all(attention.query.shape[-1] == 16 for attention in seen.values())


def test_values_may_be_narrower_than_queries():
    torch.manual_seed(0)
    module = nn.Sequential(SizedAttention(16, head_dim=8, value_dims=(5, 2), qkv_bias=True))
    tokens = torch.randn(2, 6, 16)

    seen = run_tapped(module, tokens, FeatureRequest(attentions=(0,))).attentions[0]

    _, key_BhTd, _ = module[0].split(tokens)
    assert [tensor.shape[-1] for tensor in seen.qkv] == [16, 16, 7]
    torch.testing.assert_close(seen.key.unflatten(2, (2, 8)).transpose(1, 2), key_BhTd)
    torch.testing.assert_close(seen.value, module[0].qkv(tokens)[..., 32:])
    mixed = [seen.weights[:, 0] @ seen.value[..., :5], seen.weights[:, 1] @ seen.value[..., 5:]]
    torch.testing.assert_close(module[0].proj(torch.cat(mixed, dim=2)), module(tokens), rtol=1e-4, atol=1e-5)


def test_attentions_of_a_swin_have_windows_and_no_weights():
    seen = tap("swin").attentions

    assert [attention.query.shape for attention in seen.values()] == [(32, 4, 8), (8, 4, 16), (8, 4, 16)]
    assert [attention.heads for attention in seen.values()] == [1, 2, 2]
    assert all(attention.weights is None for attention in seen.values())


def test_attentions_of_a_shared_swin_block_are_counted_by_run():
    module, tokens = network("shared swin"), []
    layer = module.layers[1].blocks[0].attn.qkv
    hook = layer.register_forward_hook(lambda _layer, _inputs, output: tokens.append(output))
    seen = tap("shared swin").attentions
    hook.remove()

    assert [attention.query.shape for attention in seen.values()] == [(32, 4, 8)] * 2 + [(8, 4, 16)] * 2
    for index, qkv in zip((2, 3), tokens, strict=True):
        torch.testing.assert_close(torch.cat(seen[index].qkv, dim=-1), qkv)
    assert not torch.allclose(seen[2].query, seen[3].query)


@every_family
def test_captured_features_have_gradients(name):
    inputs = images(name).requires_grad_()

    found = run_tapped(network(name), inputs, everything(name))
    tapped = [found.levels[0].tokens, found.last.tokens, found.embedding]
    tapped += [attention.query for attention in found.attentions.values()][:1]

    for tensor in tapped:
        (gradient,) = torch.autograd.grad(tensor.square().sum(), inputs, retain_graph=True)
        assert gradient.abs().sum() > 0


@every_family
def test_hooks_are_removed(name):
    tap(name)

    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network(name).modules())


def test_hooks_are_removed_after_an_error():
    with pytest.raises(AssertionError):
        run_tapped(network("vit"), torch.zeros(1, 1, 20, 20), everything("vit"))

    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network("vit").modules())


def test_batch_statistics_are_updated_once():
    torch.manual_seed(0)
    module = timm.create_model("resnet10t", num_classes=4, in_chans=1, channels=(4, 8, 12, 16), stem_width=4).train()

    run_tapped(module, images("resnet"), everything("resnet"))

    assert {m.num_batches_tracked.item() for m in module.modules() if isinstance(m, nn.BatchNorm2d)} == {1}


@pytest.mark.parametrize(
    ("module", "wanted", "words"),
    [
        (nn.Flatten(), FeatureRequest(levels=(0,)), "Flatten does not return features by level"),
        (nn.Flatten(), FeatureRequest(last=True), "Flatten does not return features by level"),
        (network("vit"), FeatureRequest(attentions=(0, 3)), "no readable attention 3"),
        (network("resnet"), FeatureRequest(attentions=(0,)), "no readable attention 0"),
    ],
)
def test_unavailable_features_are_refused(module, wanted, words):
    with pytest.raises(ValueError, match=words):
        run_tapped(module, torch.zeros(1, 1, 16, 16), wanted)


def test_a_network_without_a_classifier_has_no_embedding():
    headless = timm.create_model("vit_tiny_patch16_224", num_classes=0, in_chans=1, **VIT).eval()

    found = run_tapped(headless, images("vit"), FeatureRequest(embedding=True))

    torch.testing.assert_close(found.embedding, found.logits)


def test_an_empty_request_is_a_plain_forward_pass():
    assert not FeatureRequest()
    assert run_tapped(nn.Flatten(), torch.ones(1, 2, 2), FeatureRequest()).logits.equal(torch.ones(1, 4))


@every_family
@pytest.mark.parametrize("index", [0, -1])
def test_a_network_that_stops_at_a_level_returns_it_without_logits(name, index):
    level = range(FAMILIES[name].levels)[index]
    whole = tap(name, levels=(level,))
    runs = []
    hooks = [part.register_forward_hook(lambda *_: runs.append(1)) for part in network(name).modules()]
    tap(name, levels=(level,))
    needed = len(runs)
    early = tap(name, levels=(level,), logits=False)
    for hook in hooks:
        hook.remove()

    assert early.logits.shape == (2, 0)
    assert all_tokens(early.levels[level]).equal(all_tokens(whole.levels[level]))
    assert len(runs) - needed < needed


@every_family
def test_a_request_without_logits_returns_the_same_features(name):
    family = FAMILIES[name]
    early, whole = tap(name, levels=(0,), last=True, logits=False), tap(name, levels=(0,), last=True)
    embedding = tap(name, levels=(0,), embedding=True, logits=False).embedding

    assert early.logits.shape == (2, 0)
    assert early.levels[0].tokens.equal(whole.levels[0].tokens)
    assert all_tokens(early.last).equal(all_tokens(whole.last))
    assert embedding.equal(tap(name, levels=(0,), embedding=True).embedding)
    assert len(tap(name, attentions=tuple(range(family.attentions)), logits=False).attentions) == family.attentions


def test_a_map_is_in_row_major_order():
    feature = Feature(torch.arange(6.0).reshape(1, 6, 1), (2, 3))

    assert feature.map[0, 0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert feature.pooled.tolist() == [[2.5]]
    assert all_tokens(feature) is feature.tokens


def test_map_applies_to_every_tensor_of_the_outputs():
    one = torch.ones(1, 2, 4)
    given = Outputs(
        logits=torch.ones(1, 4),
        token_logits=(torch.ones(1, 4),),
        levels={3: Feature(one, (1, 2), one)},
        last=Feature(one, (1, 2)),
        embedding=torch.ones(1, 4),
        attentions={1: Attention(one, one, one, heads=2, weights=torch.ones(1, 2, 2, 2))},
    )

    found = given.map(lambda tensor: tensor + 1)

    level, attention = found.levels[3], found.attentions[1]
    tensors = [found.logits, *found.token_logits, level.tokens, level.prefix, found.last.tokens, found.embedding]
    tensors += [*attention.qkv, attention.weights]
    assert all((tensor == 2).all() for tensor in tensors)
    assert found.last.prefix is None
    assert attention.heads == 2
