import torch


def test_a_shared_block_is_stored_once(build):
    names = set(build(repeats=2, head_transforms=True, relative_position=True).state_dict())

    assert sum("attn.qkv.weight" in name for name in names) == 2
    assert sum("mlp.fc1.weight" in name for name in names) == 2
    assert sum("norm1.weight" in name for name in names) == 4
    assert sum("conv_l.weight" in name for name in names) == 4
    assert sum("relative.table" in name for name in names) == 4


def test_repeats_compute_what_the_unrolled_vit_computes(build, images):
    shared, unrolled = build(repeats=2, init_values=0.5), build(init_values=0.5)
    state = {}
    for name in unrolled.state_dict():
        source = name
        if name.startswith("blocks."):
            _, block, part, *rest = name.split(".")
            stored, run = divmod(int(block), 2)
            of = [part] if part in {"attn", "mlp"} else ["runs", str(run), part]
            source = ".".join(["blocks", str(stored), *of, *rest])
        state[name] = shared.state_dict()[source]
    unrolled.load_state_dict(state, strict=True)

    assert torch.allclose(shared(images), unrolled(images), atol=1e-6)


def test_each_run_has_separate_norms(build, images):
    model = build(repeats=4)
    before = model.forward_intermediates(images, intermediates_only=True)
    with torch.no_grad():
        model.blocks[0].runs[2].norm1.bias += torch.linspace(-1, 1, 32)
    after = model.forward_intermediates(images, intermediates_only=True)

    assert torch.equal(before[1], after[1])
    assert not torch.allclose(before[2], after[2])


def test_blocks_have_the_configured_widths(build):
    model = build(block_heads=[1, 2, 3, 4], block_hidden=[5, 6, 7, 8])

    assert [block.attn.qkv.out_features for block in model.blocks] == [24, 48, 72, 96]
    assert [block.attn.proj.in_features for block in model.blocks] == [8, 16, 24, 32]
    assert [block.mlp.fc1.out_features for block in model.blocks] == [5, 6, 7, 8]


def test_only_the_first_blocks_are_local(build):
    model = build(local_blocks=2)

    assert [hasattr(block.attn, "gating") for block in model.blocks] == [True, True, False, False]
    assert torch.equal(model.blocks[0].attn.gating, torch.ones(4))


def test_the_wide_block_runs_on_the_widened_residual_stream(build):
    block = build(wide_last=48).blocks[3]
    x = torch.randn(2, 17, 32)
    with torch.no_grad():
        block.attn.proj.weight.zero_()
        block.mlp.fc2.weight.zero_()

    assert torch.allclose(block(x), block.widen(x))
