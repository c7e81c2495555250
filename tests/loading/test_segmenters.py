"""Segmenters opened as a library, saved, and made by name."""

import jax
import numpy as np
import pytest
from PIL import Image

import qsdt_jax
from configs.ade20k_s import get_config as ade20k_s
from qsdt_jax.answers.answering import LARGEST_BATCH, LARGEST_IMAGES, in_batches
from qsdt_jax.answers.pictures import Shown
from qsdt_jax.assemble.build import build_run
from qsdt_jax.assemble.network import build_segmenter
from qsdt_jax.data.images import Normalization, normalize
from qsdt_jax.deploy.bundle import write_bundle
from qsdt_jax.errors import UserError
from qsdt_jax.evaluate.class_map import class_map
from qsdt_jax.loading.deployed import bundle_of
from qsdt_jax.loading.trained import load_trained
from qsdt_jax.models import create_model, list_models
from tests.configs.tiny_seg import get_config
from tests.loading.segmenting import CONFIG, NAMES, draw_workdir


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return qsdt_jax.load(draw_workdir(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """Two of one bucket and one of another."""
    generator = np.random.default_rng(3)
    sizes = [(20, 30), (70, 80), (41, 30)]
    return [generator.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


@pytest.mark.slow
def test_a_workdir_gives_the_class_of_each_pixel(network, images):
    """As the network's own logits, enlarged to the image."""
    found = network.predict(images)
    enlarge = jax.jit(class_map, static_argnums=3)
    assert found.class_names == NAMES and len(found) == len(images)
    views = [network.preprocess.view(image) for image in images]
    for view in views:
        height, width = view["size"]
        view["image"] = normalize(view["image"], CONFIG.data.mean, CONFIG.data.std)
        view["image"][height:], view["image"][:, width:] = 0, 0
    # The first two the other way round, so that no other program is compiled.
    batches = (
        {name: np.stack([view[name] for view in part]) for name in part[0]}
        for part in (views[1::-1], views[2:])
    )
    (second, first), (third,) = map(network.outputs, batches)
    for i, (logits, view) in enumerate(zip((first, second, third), views, strict=True)):
        image, classes, shares, top = images[i], found.maps[i], found.shares[i], found.top()[i]
        assert classes.dtype == np.uint8 and classes.shape == image.shape[:2]
        own = np.array(image.shape[:2])
        expected = enlarge(logits, view["size"], own, image.shape[:2])
        np.testing.assert_array_equal(classes, expected)
        np.testing.assert_allclose(shares, [np.mean(classes == k) for k in range(len(NAMES))], rtol=1e-12)
        assert top == sorted(top, key=lambda pair: -pair[1]) and sum(share for _, share in top) > 0.999
    assert any(len(np.unique(classes)) > 1 for classes in found.maps)
    single = network.predict(Image.fromarray(images[2]))
    np.testing.assert_array_equal(single.maps[0], found.maps[2])


@pytest.mark.slow
def test_features_are_those_of_one_size_of_array(network, images):
    features = network.features(images[:2])
    assert features["stem"].shape == (2, 16, 24, 4) and features["stage4"].shape == (2, 2, 3, 16)
    with pytest.raises(UserError, match=r"^the images are shown in arrays of 32x48, 48x32: ask for"):
        network.features(images[1:])


@pytest.mark.slow
def test_a_saved_segmenter_is_the_same(network, images, tmp_path):
    qsdt_jax.save(network, tmp_path / "out")
    again = qsdt_jax.load(tmp_path / "out")
    assert again.model == network.model and again.classes.names == NAMES
    jax.tree.map(np.testing.assert_array_equal, again.variables, network.variables)
    np.testing.assert_array_equal(again.predict(images[2]).maps[0], network.predict(images[2]).maps[0])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "pipeline_tag: image-segmentation" in card and "\nA segmenter with 4-bit weights" in card
    assert "3 classes: floor, sky, tree." in card
    assert ".top(3)   # classes by their share of the pixels" in card


@pytest.mark.slow
def test_a_bundle_gives_the_same_class_maps(network, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    write_bundle(folder / "model.qsdt", bundle_of(load_trained(draw_workdir(folder))))
    bundle = qsdt_jax.load(folder / "model.qsdt")
    assert bundle.preprocess.buckets == network.preprocess.buckets
    found, expected = bundle.predict(images), network.predict(images)
    assert found.class_names == NAMES
    for one, other in zip(found.maps, expected.maps, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_image_that_fits_no_bucket_is_told(network):
    with pytest.raises(UserError, match=r"^image 1: an image of 300x4 pixels, .* fits none of the buckets"):
        network.predict([np.zeros((20, 30, 3), np.uint8), np.zeros((300, 4, 3), np.uint8)])


def test_the_largest_bucket_is_counted_before_the_run():
    config = get_config()
    config.eval.batch_size, config.data.buckets = 2**10, ((48, 48), (2**14, 2**14))
    config.parallel.mode = "jit"
    with pytest.raises(UserError, match=r"^the images of config\.eval\.batch_size=1024 would take 3,298"):
        build_run(config)


def test_batches_have_one_shape_and_keep_the_order():
    side = int((LARGEST_IMAGES / 4) ** 0.5)
    sides = [8] * (LARGEST_BATCH + 3) + [16, 8, 8] + [side] * 5
    pixels = [np.full((s, s, 1), i, np.uint8) for i, s in enumerate(sides)]
    images = [Shown(str(i), (1, 1), {"image": x}, x) for i, x in enumerate(pixels)]
    shapes = []

    def compute(batch):
        shapes.append(batch["image"].shape[:2])
        return batch["image"][:, 0, 0, 0]

    found = []
    for batch, values in in_batches(images, compute, Normalization((0.0,), (1.0,))):
        found += zip((image.name for image in batch), np.asarray(values), strict=True)
    assert [name for name, _ in found] == [str(i) for i in range(len(images))]
    np.testing.assert_allclose([value for _, value in found], np.arange(len(images)) / 255, rtol=1e-6)
    assert shapes == [(32, 8), (4, 8), (1, 16), (2, 8), (4, side), (1, side)]


def test_published_sizes_by_name():
    """As the configuration of the paper builds them, its type of products aside."""
    assert [name for name in list_models() if name.endswith("_seg")] == [
        "qsd_s_seg",
        "qsd_m_seg",
        "qsd_l_seg",
    ]
    config = ade20k_s()
    config.model.dtype = "float32"
    assert create_model("qsd_s_seg") == build_segmenter(config, 150)
    small = create_model("qsd_m_seg", num_classes=7, fpn_channels=16, bits=2, channels=[8, 8, 16, 16])
    assert (small.num_classes, small.fpn_channels, small.backbone.bits) == (7, 16, 2)
    with pytest.raises(UserError, match="no field 'fpn_channel'; did you mean 'fpn_channels'"):
        create_model("qsd_s_seg", fpn_channel=3)
    with pytest.raises(UserError, match="no field 'fpn_channels'"):
        create_model("qsd_s", fpn_channels=3)
