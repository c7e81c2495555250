"""Mixup and cutmix, against what timm's Mixup does in its batch mode, written in NumPy."""

import functools
import itertools
import multiprocessing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy import stats

from qsdt_jax.data.mixing import mix_batch, outside_box
from qsdt_jax.losses.classification import cross_entropy

SMALLEST_P = 1e-3  # Seeds are fixed, so a test either always passes or never.
CLASSES = 7
HEIGHT, WIDTH = 16, 24
LABELS = np.array([3, 0, 3, 6, 1], np.int32)


def batch(shape=(5, 12, 9, 3), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


mix = jax.jit(mix_batch, static_argnames=("num_classes", "mixup_alpha", "cutmix_alpha"))


def keys(count: int) -> jax.Array:
    return jax.random.split(jax.random.key(0), count)


def shares(count: int, mixup: float, cutmix: float) -> tuple[np.ndarray, np.ndarray]:
    """The first image and its label's share, of many batches of a white and a black image."""
    images = jnp.zeros((2, HEIGHT, WIDTH, 1)).at[0].set(1)

    @jax.jit
    @jax.vmap
    def mixed(key):
        rows, targets = mix_batch(
            images, jnp.arange(2), key, num_classes=2, mixup_alpha=mixup, cutmix_alpha=cutmix
        )
        return rows[0, ..., 0], targets[0, 0]

    first, share = mixed(keys(count))
    return np.asarray(first), np.asarray(share)


def timm_box(height: int, width: int, share: float, cy: int, cx: int) -> np.ndarray:
    """timm's rand_bbox about a centre: (H, W), true inside the box."""
    cut_height, cut_width = (int(n * np.sqrt(1 - share)) for n in (height, width))
    top, bottom = np.clip([cy - cut_height // 2, cy + cut_height // 2], 0, height)
    left, right = np.clip([cx - cut_width // 2, cx + cut_width // 2], 0, width)
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


# The share


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_lambda_of_mixup_is_beta(alpha):
    mixed, share = shares(4000, mixup=alpha, cutmix=0.0)
    assert stats.kstest(share, stats.beta(alpha, alpha).cdf).pvalue > SMALLEST_P
    np.testing.assert_array_equal(mixed, np.broadcast_to(share[:, None, None], mixed.shape))


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_lambda_of_cutmix_is_the_area_that_is_left(alpha):
    """As it is in the image, not as it was drawn; its distribution is that of timm's procedure."""
    mixed, share = shares(4000, mixup=0.0, cutmix=alpha)
    assert set(np.unique(mixed)) == {0, 1}
    left = mixed.sum((1, 2))
    np.testing.assert_array_equal(np.round(share * mixed[0].size), left)
    np.testing.assert_allclose(share, left / mixed[0].size, atol=1e-7)

    generator = np.random.default_rng(1)
    drawn = zip(
        generator.beta(alpha, alpha, 4000),
        generator.integers(HEIGHT, size=4000),
        generator.integers(WIDTH, size=4000),
        strict=True,
    )
    expected = [(~timm_box(HEIGHT, WIDTH, *values)).sum() for values in drawn]
    assert stats.ks_2samp(left, expected).pvalue > SMALLEST_P


@pytest.mark.parametrize("share", [0.0, 0.31, 0.9, 1.0])
def test_boxes_are_those_of_timm(share):
    """Each box is one of timm's, and as frequent as its centres are."""
    height, width, count = 7, 10, 7000
    draw = jax.jit(jax.vmap(lambda key: outside_box(key, height, width, jnp.float32(share))))
    outside, left = map(np.asarray, draw(keys(count)))
    drawn = [mask.tobytes() for mask in ~outside]
    centres = itertools.product(range(height), range(width))
    possible = [timm_box(height, width, share, *centre).tobytes() for centre in centres]
    kinds = sorted(set(possible))
    assert set(drawn) == set(kinds)
    if len(kinds) > 1:
        expected = np.array([possible.count(kind) for kind in kinds]) * count / (height * width)
        assert stats.chisquare([drawn.count(kind) for kind in kinds], expected).pvalue > SMALLEST_P
    np.testing.assert_allclose(left, outside.mean((1, 2)), atol=1e-6)


def test_each_way_is_taken_half_of_the_time():
    mixed, share = shares(4000, mixup=0.8, cutmix=1.0)
    # A share that rounds to 0 or 1 is too rare to matter at this alpha.
    blended = np.all((mixed > 0) & (mixed < 1), axis=(1, 2))
    cut = np.all((mixed == 0) | (mixed == 1), axis=(1, 2))
    assert np.all(blended ^ cut)
    assert stats.binomtest(int(cut.sum()), len(cut), 0.5).pvalue > SMALLEST_P
    assert stats.kstest(share[blended], stats.beta(0.8, 0.8).cdf).pvalue > SMALLEST_P


# What is mixed


@pytest.mark.parametrize("shape", [(5, 12, 9, 3), (5, 2, 12, 9, 1)], ids=["images", "frames"])
def test_mixup_blends_with_the_batch_reversed(shape):
    images = batch(shape)
    mixed, targets = mix(images, LABELS, jax.random.key(1), num_classes=CLASSES, mixup_alpha=0.8)
    share = float(targets[1, LABELS[1]])  # Its partner is of another class.
    assert 0.01 < share < 0.99
    np.testing.assert_allclose(mixed, images * share + images[::-1] * (1 - share), atol=1e-6)
    one_hot = np.eye(CLASSES)[LABELS]
    np.testing.assert_allclose(targets, one_hot * share + one_hot[::-1] * (1 - share), atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 12, 9, 3), (5, 2, 12, 9, 1)], ids=["images", "frames"])
def test_cutmix_pastes_from_the_batch_reversed(shape):
    """Not one bit of a pixel changes; the box is the same in all images, frames and channels."""
    images, boxed = batch(shape), 0
    for key in keys(10):
        mixed, targets = mix(images, LABELS, key, num_classes=CLASSES, cutmix_alpha=1.0)
        pasted = np.asarray(mixed) == images[::-1]
        box = pasted[0].reshape(-1, 12, 9, shape[-1])[0, ..., 0]
        expected = np.where(box[..., None], images[::-1], images)
        np.testing.assert_array_equal(mixed, expected)
        assert float(targets[1, LABELS[1]]) == pytest.approx(1 - box.mean(), abs=1e-6)
        boxed += 0 < box.sum() < box.size
    assert boxed > 5


@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_targets_are_probabilities(alphas):
    for key in keys(30):
        _, targets = mix(
            batch(), LABELS, key, num_classes=CLASSES, mixup_alpha=alphas[0], cutmix_alpha=alphas[1]
        )
        assert targets.dtype == jnp.float32 and targets.shape == (5, CLASSES)
        assert np.all(np.asarray(targets) >= 0)
        np.testing.assert_allclose(targets.sum(-1), 1, atol=1e-6)


def test_loss_is_that_of_timm():
    """timm smooths the one-hot labels, mixes them, and takes the cross-entropy with the result."""
    smoothing, logits = 0.1, batch((5, CLASSES), seed=1)
    _, targets = mix(batch(), LABELS, jax.random.key(1), num_classes=CLASSES, mixup_alpha=0.8)
    share = float(targets[1, LABELS[1]])
    off = smoothing / CLASSES
    one_hot = np.full((5, CLASSES), off)
    one_hot[np.arange(5), LABELS] = 1 - smoothing + off
    mixed = one_hot * share + one_hot[::-1] * (1 - share)
    log_softmax = logits - np.log(np.exp(logits.astype(float)).sum(-1, keepdims=True))
    expected = -(mixed * log_softmax).sum(-1)
    np.testing.assert_allclose(cross_entropy(jnp.asarray(logits), targets, smoothing), expected, rtol=1e-5)


def test_same_key_same_batch():
    def mixed(seed):
        return mix(
            batch(), LABELS, jax.random.key(seed), num_classes=CLASSES, mixup_alpha=0.8, cutmix_alpha=1.0
        )

    first = [np.asarray(mixed(seed)[0]).tobytes() for seed in range(8)]
    assert first == [np.asarray(mixed(seed)[0]).tobytes() for seed in range(8)]
    assert len(set(first)) == 8


@pytest.mark.parametrize("alphas", [(0.0, 0.0), (-0.1, 1.0), (1.0, -0.1)])
def test_alphas_out_of_range(alphas):
    with pytest.raises(ValueError, match="alphas must be at least 0 and not both 0"):
        mix_batch(
            batch(), LABELS, jax.random.key(0), num_classes=2, mixup_alpha=alphas[0], cutmix_alpha=alphas[1]
        )


# Several devices


def mix_on(devices: int):
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    rows = NamedSharding(mesh, PartitionSpec("data"))
    images, labels = jax.device_put((batch((8, 12, 9, 3)), np.arange(8, dtype=np.int32)), rows)
    function = functools.partial(mix_batch, num_classes=8, mixup_alpha=0.8, cutmix_alpha=1.0)
    function = jax.jit(function, out_shardings=rows)
    return [function(images, labels, key) for key in keys(6)]


def compare_four_devices_with_one():
    jax.config.update("jax_num_cpu_devices", 4)
    for one, four in zip(mix_on(1), mix_on(4), strict=True):
        for expected, found in zip(one, four, strict=True):
            assert len(found.sharding.device_set) == 4
            # To the last bit but one: whether a product and a sum are rounded once is the compiler's choice.
            np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.slow
def test_number_of_devices_changes_nothing():
    process = multiprocessing.get_context("forkserver").Process(target=compare_four_devices_with_one)
    process.start()
    process.join(120)
    assert process.exitcode == 0
