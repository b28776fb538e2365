"""Balance of gradients: weights, parameters of one loss, accumulation, clipping, metrics and resuming."""

import pytest
import torch
import torch.nn.functional as F

from core.losses import gradient_weights
from core.methods import Outputs
from core.models.taps import Feature
from core.reporting import Control, Interrupted
from core.spec import METHODS
from core.train.balance import COSINE
from core.train.dot import DotSgd
from core.train.progress import Track
from core.train.time_plan import ProgressRange
from core.train.trainer import Trainer, TrainStep

TRACK = Track(name="distill", metric_prefix="train", progress_range=ProgressRange(0.0, 1.0))
RULES = ["projected", "min_norm", "equal_norm"]


class FakeTeacher:
    """A teacher whose logits and tokens are fixed functions of the images."""

    def __call__(self, images):
        mean_B1 = images.mean(dim=(1, 2, 3))[:, None]
        tokens = images.flatten(1)[:, :64].reshape(len(images), 4, 16)
        return Outputs(4 * mean_B1 * torch.arange(4.0), levels={0: Feature(tokens, (2, 2)), 1: Feature(tokens, (2, 2))})


@pytest.fixture
def make_step(make_setup, training, vit):
    """Factory of a training step of FitNets without dropout, whose projector only distillation reaches."""

    def make(rule="none", *, method="fitnets", seed=0, **more):
        student = vit(seed=seed, drop_path_rate=0.0, proj_drop_rate=0.0)
        block = training(balance={"rule": rule}, **{"gradient_clip": None, **more})
        teachers = () if METHODS[method].params.info.needs.max_teachers == 0 else (FakeTeacher(),)
        torch.manual_seed(1)
        return TrainStep(make_setup(block, student=student, method=method, teachers=teachers))

    return make


def gradients(train_step):
    modules = {"student": train_step.state.student, "method": train_step.state.method}
    return {f"{name}.{n}": p.grad for name, module in modules.items() for n, p in module.named_parameters()}


def separate_gradients(train_step):
    """Gradients of the label term and of all others at the first step, by torch.autograd.grad."""
    setup = train_step.setup
    batch = setup.loader.batch(0)
    terms = setup.method.loss(
        batch, train_step._run_student(batch.images), [FakeTeacher()(batch.images)], train_step.step_info(0)
    )
    names = gradients(train_step)
    parameters = [*train_step.state.student.parameters(), *train_step.state.method.parameters()]
    others = sum(term for name, term in terms.items() if name != "label")
    found = [
        torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True) for loss in (terms["label"], others)
    ]
    return [dict(zip(names, each, strict=True)) for each in found]


@pytest.mark.parametrize("rule", RULES)
def test_shared_parameters_have_the_weighted_sum_and_others_keep_their_gradient(rule, make_step):
    task, distillation = separate_gradients(make_step())
    shared = [name for name in task if task[name] is not None and distillation[name] is not None]
    flat = [torch.cat([side[name].flatten() for name in shared]) for side in (task, distillation)]
    weights = gradient_weights(*flat, rule=rule)
    train_step = make_step(rule)

    metrics = train_step.run(0)

    assert metrics[COSINE] == pytest.approx(F.cosine_similarity(*flat, dim=0).item(), abs=1e-5)
    found = gradients(train_step)
    projector = [name for name in found if name.startswith("method.regressors")]
    assert projector
    for name in shared:
        expected = weights[0] * task[name] + weights[1] * distillation[name]
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-6)
    for name in projector:
        torch.testing.assert_close(found[name], distillation[name], rtol=1e-4, atol=1e-6)
    assert not set(projector) & set(shared)


@pytest.mark.parametrize("rule", RULES)
def test_the_losses_of_the_first_step_are_those_without_a_balance(rule, make_step):
    plain, balanced = make_step().run(0), make_step(rule).run(0)

    names = ["loss", "label", "distillation", "hint"]
    assert [balanced[name] for name in names] == [plain[name] for name in names]
    assert COSINE not in plain


@pytest.mark.parametrize("rule", RULES)
def test_accumulated_gradients_are_those_of_the_complete_batch(rule, make_step):
    complete, accumulated = make_step(rule), make_step(rule, gradient_accumulation=3)

    assert accumulated.run(0) == pytest.approx(complete.run(0), rel=1e-4, abs=1e-5)
    expected = gradients(complete)
    for name, gradient in gradients(accumulated).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6)


def test_a_loss_without_another_is_trained_as_without_a_balance(make_step):
    plain, balanced = make_step(method="scratch"), make_step("projected", method="scratch")

    assert balanced.run(0) == plain.run(0)
    weights = [torch.cat([p.flatten() for p in step.state.student.parameters()]) for step in (plain, balanced)]
    assert torch.equal(*weights)


def test_dot_has_the_momenta_of_its_delta_and_clips_both_gradients(make_step):
    task, distillation = separate_gradients(make_step())
    total = [
        gradient + distillation[name] if distillation[name] is not None and gradient is not None
        else gradient if gradient is not None else distillation[name]
        for name, gradient in task.items()
    ]  # fmt: skip
    norm = torch.stack([gradient.norm() for gradient in total if gradient is not None]).norm().item()
    train_step = make_step("dot", optimizer="sgd", gradient_clip=0.5 * norm)

    metrics = train_step.run(0)

    optimizer = train_step.state.optimizer
    assert isinstance(optimizer, DotSgd)
    assert [(group["momentum"], group["delta"]) for group in optimizer.param_groups] == [(0.9, 0.075)] * 2
    assert metrics["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    bias = dict(train_step.state.student.named_parameters())["blocks.0.mlp.fc1.bias"]  # without weight decay
    state = optimizer.state[bias]
    for momentum, gradients_by_name in (("task_momentum", task), ("distillation_momentum", distillation)):
        expected = 0.5 * gradients_by_name["student.blocks.0.mlp.fc1.bias"]
        torch.testing.assert_close(state[momentum], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("rule", "optimizer"), [("min_norm", "adamw"), ("dot", "sgd")])
def test_a_resumed_training_has_the_same_bits(rule, optimizer, make_setup, training, make_reporter, tmp_path):
    block = training(balance={"rule": rule}, optimizer=optimizer, gradient_accumulation=2, learning_rate=1e-2)

    def trainer(reporter):
        torch.manual_seed(1)
        setup = make_setup(block, method="fitnets", teachers=(FakeTeacher(),))
        return Trainer(setup, track=TRACK, reporter=reporter, scratch_dir=tmp_path / "scratch")

    reference, interrupted = (
        trainer(make_reporter("reference")),
        make_reporter("paused", after=7, control=Control.PAUSE),
    )
    reference.run()
    with pytest.raises(Interrupted):
        trainer(interrupted).run()
    interrupted.control_override = Control.GO
    resumed = trainer(interrupted)
    resumed.resume(interrupted.newest_checkpoint("distill"))
    resumed.run()

    states = [each.train_step.state.student.state_dict() for each in (reference, resumed)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_the_cosine_is_a_series(make_setup, training, make_reporter, tmp_path):
    reporter = make_reporter()
    setup = make_setup(training(balance={"rule": "projected"}), method="kd", teachers=(FakeTeacher(),))

    Trainer(setup, track=TRACK, reporter=reporter, scratch_dir=tmp_path / "scratch").run()

    assert all(-1 <= reporter.logged[step][f"train/{COSINE}"] <= 1 for step in (1, 20))


def test_the_terms_of_a_peer_and_of_exits_are_balanced(make_setup, training):
    arguments = {"patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2}
    peer = {"architecture": "vit_tiny_patch16_224", "arguments": arguments}
    for method, params in (("mutual", {"peer": peer}), ("self_distillation", {})):
        setup = make_setup(training(balance={"rule": "projected"}), method=method, **params)

        assert -1 <= TrainStep(setup).run(0)[COSINE] <= 1
