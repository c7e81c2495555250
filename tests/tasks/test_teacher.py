"""CAFormer as a teacher."""

import jax
import numpy as np
import pytest

from qsdt_jax.data.classes import numbers
from qsdt_jax.jit_once import jit_once
from qsdt_jax.models.caformer import CAFormer
from qsdt_jax.tasks.classification import Classification
from qsdt_jax.tasks.distillation import Distillation, Weights
from qsdt_jax.tasks.teacher import CAFormerTeacher
from tests.deploy.nets import draw_images, draw_variables, tiny_net

MODEL = CAFormer((4, 8, 32, 64), (1, 1, 1, 2), num_classes=10)
SCALE, SHIFT = (2.0, 1.0, 0.5), (0.25, 0.0, -1.0)
TEACHER = CAFormerTeacher(MODEL, SCALE, SHIFT)
IMAGES = draw_images(2, 64, 64, 3)


@pytest.fixture(scope="module")
def variables() -> dict:
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), IMAGES)
    generator = np.random.default_rng(3)
    return jax.tree.map(lambda leaf: generator.normal(0.2, 0.4, leaf.shape).astype(np.float32), shapes)


def test_logits_and_projections_are_those_of_the_images_in_its_own_normalisation(variables):
    """q, k and v of each attention block are the products of its norm's output."""

    @jit_once
    def plain(variables, images):
        return MODEL.apply(
            variables,
            images,
            mutable=["intermediates"],
            capture_intermediates=lambda module, _: module.name == "norm1",
        )

    expected, captured = plain(variables, IMAGES * np.float32(SCALE) + np.float32(SHIFT))
    logits, blocks = jit_once(TEACHER)(variables, IMAGES)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    names = [("stages_2", "blocks_0"), ("stages_3", "blocks_0"), ("stages_3", "blocks_1")]
    assert [block.num_heads for block in blocks] == [1, 2, 2]
    assert [block.q.shape for block in blocks] == [(2, 4, 4, 32), (2, 2, 2, 64), (2, 2, 2, 64)]
    for (stage, name), block in zip(names, blocks, strict=True):
        [normed] = captured["intermediates"][stage][name]["norm1"]["__call__"]
        kernel = variables["params"][stage][name]["token_mixer"]["qkv"]["kernel"]
        for x, part in zip((block.q, block.k, block.v), np.split(kernel, 3, axis=1), strict=True):
            np.testing.assert_allclose(x, np.asarray(normed) @ part, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_it_teaches_a_student_of_other_depth_width_and_number_of_tokens(variables):
    student = tiny_net(channels=(8, 8, 16, 16))
    task = Distillation(
        student=Classification(model=student, image_shape=IMAGES.shape[1:], class_names=numbers(10)),
        teacher=TEACHER,
        teacher_variables=variables,
        weights=Weights(fgd=1.0, kd=1.0, kd_target="hard"),
    )
    batch = {"image": IMAGES, "label": np.array([1, 2])}
    own = draw_variables(student)
    loss, (_, metrics) = jit_once(Distillation.loss)(task, own, batch, jax.random.key(0))
    # 4 heads against 1 or 2 are compared as one, so each of 2 blocks adds at most 3 sqrt(2).
    assert 0 < metrics["fgd"] <= 2 * 3 * np.sqrt(2)
    assert 0 < metrics["kd"] < np.inf
    assert float(loss) == pytest.approx(
        float(metrics["task_loss"] + metrics["fgd"] + metrics["kd"]), rel=1e-5
    )
