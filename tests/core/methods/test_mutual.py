"""Deep mutual learning: two students learn from each other, and the better one is exported."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from core.data.pixels import Pixels
from core.errors import InvalidSpec
from core.spec.methods.mutual import MutualParams
from core.train.optimizer import parameter_groups

OTHER = {"architecture": "resnet10t"}


def divergence(student, teacher):
    p, q = teacher.softmax(dim=1), student.softmax(dim=1)
    return (p * (p.log() - q.log())).sum(dim=1).mean()


def test_each_student_learns_from_labels_and_from_the_other(make_harness, batch):
    harness = make_harness("mutual")
    student = harness.student_outputs(batch.images).logits
    teacher = harness.method.peer(harness.student.preprocessing(batch.images))

    terms = {name: term.item() for name, term in harness.terms(batch).items()}

    assert terms == {
        "label": pytest.approx(F.cross_entropy(student, batch.labels).item(), rel=1e-5),
        "distillation": pytest.approx(divergence(student, teacher).item(), rel=1e-4),
        "peer_label": pytest.approx(F.cross_entropy(teacher, batch.labels).item(), rel=1e-5),
        "peer_distillation": pytest.approx(divergence(teacher, student).item(), rel=1e-4),
    }


def test_neither_student_has_a_gradient_from_the_others_terms(make_harness, batch):
    harness = make_harness("mutual")
    terms = harness.terms(batch)

    of_student = torch.autograd.grad(
        terms["label"] + terms["distillation"], list(harness.method.parameters()), allow_unused=True
    )
    of_peer = torch.autograd.grad(
        terms["peer_label"] + terms["peer_distillation"], list(harness.student.module.parameters()), allow_unused=True
    )

    assert all(gradient is None for gradient in (*of_student, *of_peer))


def test_the_peer_has_the_students_shapes_and_different_weights(make_harness):
    harness = make_harness("mutual")
    student, teacher = harness.student.module.state_dict(), harness.method.peer.state_dict()

    assert {name: t.shape for name, t in student.items()} == {name: t.shape for name, t in teacher.items()}
    assert not student["head.weight"].equal(teacher["head.weight"])


def test_the_peers_position_embedding_has_no_weight_decay(make_harness):
    method = make_harness("mutual").method
    decayed, plain = (group["params"] for group in parameter_groups([method], 0.1))

    assert any(parameter is method.peer.pos_embed for parameter in plain)
    assert any(parameter is method.peer.blocks[0].mlp.fc1.weight for parameter in decayed)


def predict_always(built, label):
    """Make a network predict one class for every image."""
    with torch.no_grad():
        head = built.module.get_classifier()
        head.weight.zero_()
        head.bias.zero_()
        head.bias[label] = 1.0


@pytest.mark.parametrize(
    ("student_class", "peer_class", "exported"), [(2, 1, "student"), (1, 2, "peer"), (2, 2, "student")]
)
def test_the_better_network_on_held_out_images_is_exported(make_harness, student_class, peer_class, exported):
    harness = make_harness("mutual", peer=OTHER, hold_out=0.1)
    predict_always(harness.student, student_class)
    predict_always(harness.method.built_peer, peer_class)
    # Of 4 images the 3 at these indices are held out; the first image's class would change the result.
    pixels = Pixels(np.zeros((4, 1, 16, 16), np.uint8), torch.tensor([2, 2, 1]), np.array([1, 2, 3]))

    finished = harness.method.finalize(harness.student, pixels)

    assert finished.architecture == {"student": harness.student.architecture, "peer": "resnet10t"}[exported]
    assert finished.module is (harness.student.module if exported == "student" else harness.method.peer)


def test_by_default_no_image_is_held_out_and_the_student_is_exported(make_harness):
    harness = make_harness("mutual", peer=OTHER)
    predict_always(harness.method.built_peer, 1)

    assert MutualParams(name="mutual").held_out_fraction == 0
    assert MutualParams(name="mutual", hold_out=0.2).held_out_fraction == 0.2
    assert harness.method.finalize(harness.student, None) is harness.student
    assert harness.method.export_candidates(harness.student) == (harness.student,)


@pytest.mark.parametrize(
    ("peer", "pointer"),
    [
        ({"architecture": "vit_nano"}, "/method/peer/architecture"),
        ({"architecture": "resnet10t", "arguments": {"pretrained": True}}, "/method/peer/arguments/pretrained"),
        ({"architecture": "resnet10t", "arguments": {"colour": 1}}, "/method/peer/arguments"),
    ],
)
def test_an_invalid_peer_is_rejected_at_its_field(make_harness, peer, pointer):
    with pytest.raises(InvalidSpec) as caught:
        make_harness("mutual", peer=peer)

    assert [error.pointer for error in caught.value.errors] == [pointer]
