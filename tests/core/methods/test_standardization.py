"""Statistics of teacher features match the official code of UNIC and TAO; draws follow torch.manual_seed(0)."""

import pytest
import torch
from torch import nn

from core.methods.standardization import ChannelStandardizer, PhiStandardizer
from tests.support.golden import draw, fingerprint


def rows(map_BDHW):
    return map_BDHW.permute(0, 2, 3, 1).flatten(0, 2)


def standardize_map(standardizer, map_BDHW):
    return standardizer(map_BDHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def test_running_statistics_of_channels_match_unic():
    torch.manual_seed(0)
    steps = [draw(4, 9, 8, scale=3.0), draw(4, 9, 8, scale=2.0)]
    standardizer, outputs = ChannelStandardizer(8), []

    for features, momentum in zip(steps, [1.0, 0.4], strict=True):
        outputs.append(standardizer(features))  # normalized before it is counted
        standardizer.update(features.flatten(0, 1), momentum)

    sums = [16.62125556176784, 14.1900550670314]
    fingerprints = [0.2902756545293004, -6.008085657624251]
    mean = [-0.28213782670597237, 0.26535933641716836, 0.07704068389203814, 0.2609778779507097, 0.16337769913176697,
            0.03676252621743413, 0.8719339496559566, -0.4022406704723835]  # fmt: skip
    std = [2.0254376128538287, 2.8579332277819014, 2.490673497676121, 2.456465211240213, 2.4836962671060276,
           2.834674899212477, 2.3763322444280397, 2.6699029488656385]  # fmt: skip
    assert [output.sum().item() for output in outputs] == pytest.approx(sums, rel=1e-5)
    assert [fingerprint(output) for output in outputs] == pytest.approx(fingerprints, rel=1e-4)
    assert standardizer.mean.tolist() == pytest.approx(mean, rel=1e-5)
    assert standardizer.std.tolist() == pytest.approx(std, rel=1e-5)


PHI_S = {
    "one_chunk": {
        "chunks": [((4, 8, 4, 4), 3.0)], "masked": False, "scale": 0.3269948363304138,
        "matrix": (0.9264254604710546, -1.1100575511576962), "targets": [(0.0, -2.9983638541906927)],
    },
    "three_chunks_masked": {
        "chunks": [((3, 8, 3, 3), 3.0), ((3, 8, 3, 3), 1.0), ((3, 8, 3, 3), 2.0)], "masked": True,
        "scale": 0.46429041028022766, "matrix": (-0.9875120774412466, -0.4239213891394254),
        "targets": [(None, None), (None, None), (18.174686545914042, 14.638017477489932)],
    },
    "paley": {
        "chunks": [((4, 12, 3, 3), 2.0), ((4, 12, 3, 3), 5.0)], "masked": False, "scale": 0.2513091564178467,
        "matrix": (0.1964478147510793, 1.2827005438403294),
        "targets": [(None, None), (-4.465784180566711, -7.89688464459347)],
    },
}  # fmt: skip


@pytest.mark.parametrize("case", PHI_S.values(), ids=PHI_S)
def test_phi_s_matches_tao(case):
    torch.manual_seed(0)
    chunks = [draw(*shape, scale=scale) for shape, scale in case["chunks"]]
    keep = torch.rand(3, 3, 3) > 0.25 if case["masked"] else torch.ones(chunks[0][:, 0].shape, dtype=torch.bool)
    standardizer = PhiStandardizer(chunks[0].shape[1])

    for chunk in chunks:
        standardizer.update(rows(chunk)[keep.flatten()])
    standardizer.finalize()

    total, expected = case["targets"][-1]
    targets = standardize_map(standardizer, chunks[-1])
    assert standardizer.scale.item() == pytest.approx(case["scale"], rel=1e-5)
    assert standardizer.matrix.sum().item() == pytest.approx(case["matrix"][0], rel=1e-5)
    assert fingerprint(standardizer.matrix) == pytest.approx(case["matrix"][1], rel=1e-5)
    assert targets.sum().item() == pytest.approx(total, rel=1e-5, abs=1e-4)
    assert fingerprint(targets) == pytest.approx(expected, rel=1e-5)


def test_the_folded_head_matches_tao():
    torch.manual_seed(0)
    chunk, weight, bias, hidden = draw(4, 8, 3, 3, scale=3.0), draw(8, 5), draw(8), draw(3, 5)
    standardizer, linear = PhiStandardizer(8), nn.Linear(5, 8)
    linear.load_state_dict({"weight": weight, "bias": bias})
    standardizer.update(rows(chunk))
    standardizer.finalize()

    folded = standardizer.fold(linear)

    first_row = [0.25375451697637613, 2.8635311827010246, -0.7502713512654198, -5.577600605688514, -1.477031104001396]
    expected_bias = [-1.3649186327290737, 1.1594678396281601, 1.6722563926017893, -5.2178281256383725,
                     -6.510845539080243, -0.46610384022899987, 2.3408239887323194, -0.1444458867210699]  # fmt: skip
    expected_output = [0.3865218759290239, 4.378123126465457, -5.581465198180767, -5.223330446547612,
                       -2.4683238321682976, 2.5614142810441507, 0.7352760278931059, -6.9773257459309495]  # fmt: skip
    assert folded.weight[0].tolist() == pytest.approx(first_row, rel=1e-5)
    assert folded.bias.tolist() == pytest.approx(expected_bias, rel=1e-5)
    assert folded(hidden)[1].tolist() == pytest.approx(expected_output, rel=1e-5)


@pytest.mark.parametrize("kind", [ChannelStandardizer, PhiStandardizer])
def test_the_inverse_and_a_folded_head_return_to_the_teachers_space(kind):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(50, 8, generator=generator) * torch.arange(1, 9) + 3
    standardizer, linear = kind(8), nn.Linear(5, 8)
    standardizer.update(features)
    standardizer.finalize()
    inputs = torch.randn(4, 5, generator=generator)

    torch.testing.assert_close(standardizer.inverse(standardizer(features)), features, rtol=1e-4, atol=1e-4)
    predicted = standardizer.inverse(linear(inputs))
    torch.testing.assert_close(standardizer.fold(linear)(inputs), predicted, rtol=1e-4, atol=1e-4)


def test_batches_of_channels_count_equally():
    batches = [torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [8.0]]), torch.tensor([[1.0], [3.0]])]
    standardizer = ChannelStandardizer(1)

    for batch in batches:
        standardizer.update(batch)

    assert standardizer.mean.item() == pytest.approx(3.0)
    assert standardizer.std.item() == pytest.approx((2**0.5 + 8**0.5 + 2**0.5) / 3, rel=1e-5)


def test_a_width_without_a_hadamard_matrix_gets_a_rotation_that_is_always_the_same():
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    found = []
    for _ in range(2):
        standardizer = PhiStandardizer(6)
        standardizer.update(features)
        standardizer.finalize()
        found.append(standardizer.matrix)

    assert found[0].equal(found[1])
    product = found[0] @ found[0].T / standardizer.scale**2
    torch.testing.assert_close(product, torch.eye(6), rtol=0, atol=1e-5)


def test_without_statistics_features_are_unchanged():
    features = torch.randn(3, 4)

    assert torch.equal(PhiStandardizer(4)(features), features)
    torch.testing.assert_close(ChannelStandardizer(4)(features), features)


def test_features_that_differ_by_rounding_errors_are_constant():
    standardizer = PhiStandardizer(8)
    standardizer.update(3 + 3e-7 * torch.randn(100, 8))

    with pytest.raises(ValueError, match="do not vary"):
        standardizer.finalize()
