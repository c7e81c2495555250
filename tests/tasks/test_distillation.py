"""The task that learns from a teacher."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qsdt_jax.data.classes import numbers
from qsdt_jax.jit_once import jit_once
from qsdt_jax.losses.distillation import logit_distillation
from qsdt_jax.losses.fgd import fgd_loss
from qsdt_jax.tasks.classification import Classification
from qsdt_jax.tasks.distillation import Distillation, Weights
from qsdt_jax.tasks.teacher import OwnTeacher, is_projection, projections
from tests.deploy.nets import draw_images, draw_variables, tiny_net

SIZE = (3, 32, 32, 3)
STUDENT = tiny_net(channels=(8, 8, 16, 16))
NAMES = numbers(STUDENT.num_classes)
TEACHER = tiny_net(channels=(8, 8, 24, 32), neuron="relu", bits=32, attention="softmax")
WEIGHTS = Weights(fgd=0.5, kd=2.0, total_steps=10)
BATCH = {"image": draw_images(*SIZE), "label": np.array([1, 2, 3])}


@pytest.fixture(scope="module")
def task() -> Distillation:
    return Distillation(
        student=Classification(model=STUDENT, image_shape=SIZE[1:], class_names=NAMES, label_smoothing=0.1),
        teacher=OwnTeacher(TEACHER),
        teacher_variables=draw_variables(TEACHER, 2),
        weights=WEIGHTS,
    )


@pytest.fixture(scope="module")
def variables() -> dict:
    return draw_variables(STUDENT)


@jit_once
def loss_and_gradient(task: Distillation, variables: dict, step):
    def loss(params, teacher_variables):
        own = task.replace(teacher_variables=teacher_variables)
        return own.loss({**variables, "params": params}, BATCH, jax.random.key(0), step)

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], task.teacher_variables)


@pytest.mark.slow
def test_loss_is_the_weighed_sum_of_its_parts(task, variables):
    (loss, (batch_stats, metrics)), gradients = loss_and_gradient(task, variables, 0)
    plain, (plain_stats, _) = jit_once(task.student.loss)(variables, BATCH, jax.random.key(0))
    assert float(metrics["task_loss"]) == pytest.approx(float(plain), rel=1e-5)
    expected = metrics["task_loss"] + 0.5 * metrics["fgd"] + 2.0 * metrics["kd"]
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    for found, wanted in zip(jax.tree.leaves(batch_stats), jax.tree.leaves(plain_stats), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    # The teacher learns nothing, the student's attention something.
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradients[1]))
    assert np.any(gradients[0]["block3_0"]["attn"]["q_repconv"]["conv1"]["kernel"])


@pytest.mark.slow
def test_parts_are_the_losses_of_what_the_two_networks_compute(task, variables):
    _, (_, metrics) = loss_and_gradient(task, variables, 0)[0]
    options = {"capture_intermediates": is_projection, "mutable": ["intermediates", "batch_stats"]}

    @jit_once
    def forward(variables, teacher_variables, images):
        logits, own = STUDENT.apply(variables, images, train=True, **options)
        answer, taught = TEACHER.apply(teacher_variables, images, **options)
        blocks = [
            projections(model, captured["intermediates"], images)
            for model, captured in ((STUDENT, own), (TEACHER, taught))
        ]
        return logits, answer, *blocks

    logits, answer, own, taught = forward(variables, task.teacher_variables, BATCH["image"])
    assert float(metrics["fgd"]) == pytest.approx(float(fgd_loss(own, taught)), rel=1e-4)
    assert float(metrics["kd"]) == pytest.approx(float(logit_distillation(logits, answer).mean()), rel=1e-4)
    assert [block.q.shape for block in own] == [(3, 2, 2, 16)] * 2
    assert [block.v.shape for block in taught] == [(3, 2, 2, 24), (3, 2, 2, 32)]
    assert set(np.unique(own[0].q)) <= {0, 0.25, 0.5, 0.75, 1}  # Spikes of the student,
    assert len(np.unique(taught[0].q)) > 20  # and real values of the teacher.


@pytest.mark.slow
def test_a_distillation_head_learns_from_the_teacher_and_the_other_from_the_labels(task):
    """As DeiT: cross-entropy of one with the labels, of the other with the teacher's first choices."""
    model = STUDENT.clone(distillation_head=True)
    weights = Weights(fgd=0.0, kd=1.0, kd_target="hard")
    task = task.replace(student=dataclasses.replace(task.student, model=model), weights=weights)
    variables = draw_variables(model)
    params = variables["params"]
    heads = {name: params[name] for name in ("head", "head_dist")}

    @jit_once
    def gradients(task, variables, heads):
        """Of both parts, in each head, and what the two networks answer."""
        images = BATCH["image"]

        def parts(heads):
            whole = {**variables, "params": {**variables["params"], **heads}}
            _, (_, metrics) = task.loss(whole, BATCH, jax.random.key(0))
            return metrics["task_loss"], metrics["kd"]

        both, _ = model.apply(variables, images, train=True, method="both_heads", mutable=["batch_stats"])
        answer, _ = task.teacher(task.teacher_variables, images)
        return parts(heads), jax.jacrev(parts)(heads), both, answer

    (task_loss, kd), (by_labels, by_teacher), both, answer = gradients(task, variables, heads)
    assert float(task_loss) == pytest.approx(
        float(task.student.label_loss(both[0], BATCH["label"])), rel=1e-5
    )
    choices = optax.softmax_cross_entropy_with_integer_labels(both[1], jnp.argmax(answer, -1))
    assert float(kd) == pytest.approx(float(choices.mean()), rel=1e-5)
    for gradient, learns, rests in ((by_labels, "head", "head_dist"), (by_teacher, "head_dist", "head")):
        assert np.any(gradient[learns]["kernel"])
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient[rests]))


def test_time_steps_count_with_their_mean():
    model = tiny_net(channels=(8, 8, 16, 16), timesteps=2)
    rows = {
        f"{block}": {
            "attn": {
                f"{x}_neuron": {"__call__": (jnp.arange(4.0 * 4 * 16).reshape(4, 4, 16),)} for x in "qkv"
            }
        }
        for block in ("block3_0", "block4_0")
    }
    blocks = projections(model, rows, jnp.zeros((2, 32, 32, 3)))
    array = np.arange(4.0 * 4 * 16).reshape(2, 2, 2, 2, 16)
    np.testing.assert_array_equal(blocks[0].k, array.mean(1))


def test_schedule_of_the_weight():
    falling = dataclasses.replace(WEIGHTS, fgd_schedule="cosine")
    assert WEIGHTS.fgd_at(7) == 0.5
    np.testing.assert_allclose([falling.fgd_at(s) for s in (0, 5, 10)], [0.5, 0.25, 0.0], atol=1e-7)
