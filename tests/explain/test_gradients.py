"""Gradients of a class's score, against plain paths and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.explain.gradients import grad_cam, gradients, last_block, saliency
from qsdt_jax.models import Classifier, SpikingResformer
from qsdt_jax.models.shapes import variable_shapes
from tests.deploy.nets import ShortBackbone, draw_images, draw_variables, tiny_net
from tests.launch.tiny import draw

RESFORMER = SpikingResformer(
    channels=(8, 8, 16), num_heads=(1, 1, 2), depths=(1, 1, 1), group_size=8, small_images=True,
    num_classes=10, timesteps=2,
)  # fmt: skip
SIZE = 16, 16


class Short(ShortBackbone):
    """With a convolution in the place of its last block, as its features say."""

    block_names = ("downsample4",)  # pyright: ignore[reportAssignmentType]


SHORT = Short(channels=(4, 4, 8, 8), depth=2, num_heads=2, mlp_ratio=1)


def scores_of(model, variables, stream):
    """The scores (1, K) of a classifier's last residual stream."""
    if isinstance(model, SpikingResformer):
        pooled = jnp.mean(stream, (1, 2))
        return jnp.mean(pooled @ variables["params"]["head"]["kernel"], 0)[None]

    def head(model, stream):
        return model.over_time(model.head(model.head_neuron(model.pooled(stream, False)), False).real)

    return model.apply(variables, stream, method=head)


@pytest.mark.parametrize("kind", [pytest.param("qsd", marks=pytest.mark.slow), "resformer"])
def test_they_are_those_of_plain_paths(kind):
    """From the images through the network; and from the features that it names through its head alone."""
    if kind == "qsd":
        model = Classifier(SHORT.clone(timesteps=2), 10)
        variables = draw_variables(model)
    else:
        model, variables = RESFORMER, draw(variable_shapes(RESFORMER), 1)
    [image], target = draw_images(1, *SIZE, 3), 3
    found = gradients(model, variables, image, target)

    score, expected = jax.jit(jax.value_and_grad(lambda x: model.apply(variables, x[None])[0, target]))(image)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found.image, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())

    scored = jax.value_and_grad(lambda stream: scores_of(model, variables, stream)[0, target])
    of_head, slope = scored(found.features)
    assert of_head == pytest.approx(float(score), rel=1e-6)
    assert found.of_features.shape == found.features.shape and np.abs(slope).max() > 0
    np.testing.assert_allclose(found.of_features, slope, rtol=1e-5, atol=1e-7)


def test_they_are_slopes_where_there_are_slopes():
    """A network without spikes has a derivative: that of finite differences, along a drawn direction."""
    with jax.enable_x64(True):
        fields = {"neuron": "relu", "bits": 32, "attention": "softmax", "exact_evaluation": False}
        backbone = SHORT.clone(**fields, dtype=jnp.float64, param_dtype=jnp.float64)
        model = Classifier(backbone, 10)
        variables = draw_variables(model)
        [image, direction] = draw_images(2, *SIZE, 3).astype(np.float64)
        score = jax.jit(lambda image: model.apply(variables, image[None])[0, 3])
        step = 1e-7 * direction
        expected = (score(image + step) - score(image - step)) / 2e-7
        slope = np.sum(np.asarray(gradients(model, variables, image, 3).image) * direction)
        assert slope == pytest.approx(float(expected), rel=1e-5) and abs(slope) > 1e-3


def test_the_last_block_is_the_one_before_the_head():
    assert last_block(tiny_net(depth=5)) == "block4_1"
    assert last_block(RESFORMER.clone(depths=(1, 1, 3))) == "stage3_gwffn2"


def test_saliency_is_the_largest_size_over_channels_and_frames():
    gradient = np.array([[[1.0, -3.0], [0.5, 0.25]]])  # (1, 2, 2)
    np.testing.assert_array_equal(saliency(gradient), [[3, 0.5]])
    frames = np.stack([gradient, -2 * gradient[:, ::-1]])
    np.testing.assert_array_equal(saliency(frames), [[3, 6]])


def test_grad_cam_weighs_each_channel_of_each_time_step_by_its_mean_gradient():
    features, slopes = np.random.default_rng(0).standard_normal((2, 2, 3, 4, 5), dtype=np.float32)
    expected = np.zeros((3, 4))
    for y in range(3):
        for x in range(4):
            terms = [slopes[t, :, :, c].mean() * features[t, y, x, c] for t in range(2) for c in range(5)]
            expected[y, x] = max(0, sum(terms))
    assert 0 < (expected > 0).mean() < 1
    np.testing.assert_allclose(grad_cam(features, slopes), expected, rtol=1e-5, atol=1e-7)
