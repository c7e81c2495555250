"""Detection as a task: what plays no role, what there is without objects, and time steps."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsdt_jax.detection import regions as pooling
from qsdt_jax.detection.inference import Settings
from qsdt_jax.models import MaskRCNN, init_variables
from qsdt_jax.tasks import detection
from qsdt_jax.tasks.detection import Detection, class_count
from tests.configs.light_backbone import LightBackbone

SIDE, OBJECTS = 64, 3
KEY = jax.random.key(7)


def tiny() -> Detection:
    backbone = LightBackbone(channels=(8, 8, 16, 16), num_heads=2, mlp_ratio=1)
    model = MaskRCNN(backbone, 2, fpn_channels=16, box_features=32, anchor_scale=4.0)
    sizes: dict[str, Any] = {
        "rpn_samples": 32,
        "roi_samples": 32,
        "train_proposals": (40, 40),
        "test_proposals": (40, 20),
    }
    return Detection(
        model=model,
        image_shape=(SIDE, SIDE, 3),
        class_names=("dark", "bright"),
        objects=OBJECTS,
        detections=5,
        **sizes,
    )


def rectangles() -> dict[str, jax.Array]:
    """Two images of one dark and one bright rectangle, whose shapes fill their boxes."""
    image = np.random.default_rng(0).normal(0, 0.1, (2, SIDE, SIDE, 3))
    boxes, category = np.zeros((2, OBJECTS, 4), np.float32), np.full((2, OBJECTS), -1, np.int32)
    for i, objects in enumerate([[(6, 8, 30, 28), (34, 36, 58, 60)], [(32, 4, 60, 30), (8, 34, 26, 56)]]):
        for j, (x0, y0, x1, y1) in enumerate(objects):
            image[i, y0:y1, x0:x1] += 2 if j else -2
            boxes[i, j], category[i, j] = (x0, y0, x1, y1), j
    masks = np.where(category[..., None, None] < 0, 0, 255) * np.ones((56, 56))
    arrays = {
        "image": image.astype(np.float32),
        "size": np.full((2, 2), SIDE, np.int32),
        "index": np.array([3, 8], np.int32),
        "boxes": boxes,
        "category": category,
        "masks": masks.astype(np.uint8),
    }
    return jax.tree.map(jnp.asarray, arrays)


@functools.cache
def drawn(task: Detection) -> Any:
    return jax.jit(task.init)(jax.random.key(1))


@functools.partial(jax.jit, static_argnums=0)
def gradients(task: Detection, variables: Any, batch: Any, key: jax.Array = KEY) -> Any:
    def loss(params):
        value, aux = task.loss({**variables, "params": params}, batch, key)
        return value, aux

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])


@pytest.mark.slow
def test_shapes_of_a_batch_and_of_detections():
    task, batch = tiny(), rectangles()
    assert jax.tree.map(lambda x: (x.shape, x.dtype), task.batch_shapes(2)) == jax.tree.map(
        lambda x: (x.shape, x.dtype), batch
    )
    found = jax.eval_shape(task.outputs, jax.eval_shape(task.init, KEY), batch)
    assert {name: x.shape[1:] for name, x in found.items()} == {
        "boxes": (5, 4),
        "score": (5,),
        "category": (5,),
        "mask": (5, 28, 28),
    }
    assert class_count(jax.eval_shape(task.init, KEY)) == 2


def test_what_it_is_told_to_find():
    task = dataclasses.replace(tiny(), score_threshold=0.3, resolution=1e-3)
    assert task.settings == Settings(
        anchor_scale=4.0,
        geometry="true",
        proposals=(40, 20),
        score_threshold=0.3,
        detections=5,
        resolution=1e-3,
    )
    assert task.regions(train=True) == (32, 8) and task.regions(train=False) == (20, 5)


@pytest.mark.slow
def test_what_stands_in_empty_places_and_who_stands_beside_play_no_role():
    """Equal losses and gradients, bit for bit; and an image's samples follow its index, not its place."""
    task, batch = tiny(), rectangles()
    variables = drawn(task)
    (loss, (_, losses)), grads = gradients(task, variables, batch)
    assert losses.keys() == {"loss_rpn_score", "loss_rpn_box", "loss_class", "loss_box", "loss_mask"}
    assert all(float(x) > 0 for x in losses.values())
    np.testing.assert_allclose(sum(losses.values()), loss, rtol=1e-6)
    empty = batch["category"] < 0
    other = {
        **batch,
        "boxes": jnp.where(empty[..., None], jnp.array([10.0, 10, 40, 40]), batch["boxes"]),
        "masks": jnp.where(empty[..., None, None], 200, batch["masks"]).astype(jnp.uint8),
    }
    (again, _), grads_again = gradients(task, variables, other)
    assert again == loss
    jax.tree.map(np.testing.assert_array_equal, grads_again, grads)
    swapped = jax.tree.map(lambda x: x[::-1], batch)
    np.testing.assert_allclose(gradients(task, variables, swapped)[0][0], loss, rtol=1e-5)
    renamed = {**batch, "index": batch["index"] + 1}
    assert gradients(task, variables, renamed)[0][0] != loss


@pytest.mark.slow
def test_without_objects_losses_and_gradients_are_finite():
    """Nor with boxes without area."""
    task, batch = tiny(), rectangles()
    none = {**batch, "category": jnp.full_like(batch["category"], -1)}
    flat = {**batch, "boxes": batch["boxes"].at[..., 2].set(batch["boxes"][..., 0])}
    for other in (none, flat):
        (loss, (_, losses)), grads = gradients(task, drawn(task), other)
        assert np.isfinite(loss)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
        if other is none:
            assert losses["loss_rpn_box"] == losses["loss_box"] == losses["loss_mask"] == 0


@pytest.mark.slow
def test_anchors_and_proposals_keep_to_the_image(monkeypatch):
    task, batch = tiny(), rectangles()
    sizes = jnp.array([[SIDE, SIDE], [40, 25]])
    seen: dict[str, Any] = {}
    modules = {"proposal_losses": detection, "proposals_of": detection, "roi_align": pooling}
    for name, module in modules.items():
        function = getattr(module, name)

        def record(*args, name=name, function=function):
            seen.setdefault(name, args)
            return function(*args)

        monkeypatch.setattr(module, name, record)

    def run(variables):
        seen.clear()
        task.loss(variables, {**batch, "size": sizes, "boxes": batch["boxes"] * 0.3}, KEY)
        return seen["proposal_losses"][3], seen["roi_align"][1]

    weights, regions = jax.jit(run)(drawn(task))
    assert seen["proposals_of"][4] == task.train_proposals != task.test_proposals
    # The finest level, of stride 4: 16 x 16 cells of three anchors.
    learned = np.asarray(weights[:, : 16 * 16 * 3]).reshape(2, 16, 16, 3).any((0, 3))
    of_second = np.asarray(weights[1, : 16 * 16 * 3]).reshape(16, 16, 3).any(2)
    assert learned[10:].any() and not of_second[10:].any() and not of_second[:, 7:].any()
    assert np.asarray(regions[1, :, 2]).max() <= 25 and np.asarray(regions[1, :, 3]).max() <= 40


def test_time_steps_of_regions():
    """A neuron without memory, and frames in the order (image, step): the means over each image's frames."""
    model = tiny().model
    one, two = (
        model.clone(backbone=model.backbone.clone(neuron="quantized_relu", timesteps=count))
        for count in (1, 2)
    )
    variables = init_variables(one, 3)
    for method, side in (("classify", 7), ("segment", 14)):
        frames = jax.random.normal(KEY, (4, 3, side, side, 16))
        means, single = (model.apply(variables, frames, method=method) for model in (two, one))
        for mean, steps in zip(jax.tree.leaves(means), jax.tree.leaves(single), strict=True):
            np.testing.assert_allclose(mean, (steps[::2] + steps[1::2]) / 2, rtol=1e-5, atol=1e-6)
