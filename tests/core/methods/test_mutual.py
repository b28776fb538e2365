"""Two students that teach each other, of which the better one is exported."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from core.data.pixels import Pixels
from core.errors import InvalidSpec
from core.train.optimizer import parameter_groups

OTHER = {"architecture": "resnet10t"}


def divergence(student, teacher):
    p, q = teacher.softmax(dim=1), student.softmax(dim=1)
    return (p * (p.log() - q.log())).sum(dim=1).mean()


def test_each_of_the_two_learns_from_labels_and_from_the_other(lesson, batch):
    made = lesson("mutual")
    mine = made.ask(batch.images).logits
    theirs = made.method.peer(made.student.preprocessing(batch.images))

    terms = {name: term.item() for name, term in made.terms(batch).items()}

    assert terms == {
        "label": pytest.approx(F.cross_entropy(mine, batch.labels).item(), rel=1e-5),
        "distillation": pytest.approx(divergence(mine, theirs).item(), rel=1e-4),
        "peer_label": pytest.approx(F.cross_entropy(theirs, batch.labels).item(), rel=1e-5),
        "peer_distillation": pytest.approx(divergence(theirs, mine).item(), rel=1e-4),
    }


def test_what_one_says_is_no_business_of_the_others_gradient(lesson, batch):
    made = lesson("mutual")
    terms = made.terms(batch)

    of_student = torch.autograd.grad(
        terms["label"] + terms["distillation"], list(made.method.parameters()), allow_unused=True
    )
    of_peer = torch.autograd.grad(
        terms["peer_label"] + terms["peer_distillation"], list(made.student.module.parameters()), allow_unused=True
    )

    assert all(gradient is None for gradient in (*of_student, *of_peer))


def test_the_peer_has_the_students_form_and_other_weights(lesson):
    made = lesson("mutual")
    mine, theirs = made.student.module.state_dict(), made.method.peer.state_dict()

    assert {name: t.shape for name, t in mine.items()} == {name: t.shape for name, t in theirs.items()}
    assert not mine["head.weight"].equal(theirs["head.weight"])


def test_the_peers_positions_do_not_decay_as_the_students_do_not(lesson):
    method = lesson("mutual").method
    decayed, plain = (group["params"] for group in parameter_groups([method], 0.1))

    assert any(parameter is method.peer.pos_embed for parameter in plain)
    assert any(parameter is method.peer.blocks[0].mlp.fc1.weight for parameter in decayed)


def always(built, label):
    """Make a network say one class of every picture."""
    with torch.no_grad():
        head = built.module.get_classifier()
        head.weight.zero_()
        head.bias.zero_()
        head.bias[label] = 1.0


@pytest.mark.parametrize(
    ("student_says", "peer_says", "exported"), [(2, 1, "student"), (1, 2, "peer"), (2, 2, "student")]
)
def test_the_better_one_on_held_out_pictures_is_exported(lesson, student_says, peer_says, exported):
    made = lesson("mutual", peer=OTHER)
    always(made.student, student_says)
    always(made.method.built, peer_says)
    # Of 4 pictures the 3 at these places are held out; the first one's class would decide otherwise.
    pixels = Pixels(np.zeros((4, 1, 16, 16), np.uint8), torch.tensor([2, 2, 1]), np.array([1, 2, 3]))

    finished = made.method.finalize(made.student, pixels)

    assert finished.architecture == {"student": made.student.architecture, "peer": "resnet10t"}[exported]
    assert finished.module is (made.student.module if exported == "student" else made.method.peer)


@pytest.mark.parametrize(
    ("peer", "pointer"),
    [
        ({"architecture": "vit_nano"}, "/method/peer/architecture"),
        ({"architecture": "resnet10t", "arguments": {"pretrained": True}}, "/method/peer/arguments/pretrained"),
        ({"architecture": "resnet10t", "arguments": {"colour": 1}}, "/method/peer/arguments"),
    ],
)
def test_a_peer_that_cannot_be_is_refused_where_it_is_asked_for(lesson, peer, pointer):
    with pytest.raises(InvalidSpec) as refusal:
        lesson("mutual", peer=peer)

    assert [error.pointer for error in refusal.value.errors] == [pointer]
