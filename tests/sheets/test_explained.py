"""The picture of an explanation: what is in it, and that nothing of it is cut off or empty."""

import io

import numpy as np
import pytest
from PIL import Image

from qsdt_jax.answers.classes import Prediction
from qsdt_jax.explain.explanation import Explanation
from qsdt_jax.explain.rasters import Raster
from qsdt_jax.sheets.explained import NO_GRADIENTS, explained_sheet

LONG = "a class whose name is longer than any place for it on the sheet"


def explanation(**fields) -> Explanation:
    """Of an image 32x48 and a network of 9 blocks with D = 4, T = 2."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (32, 48, 3), np.uint8)
    logits = np.array([0.0, 3.0, 1.0], np.float32)
    stages = [f"stage {n}" for n in range(1, 5)]
    return Explanation(
        **{
            "prediction": Prediction(name="folder/one.png", view=image, logits=logits),
            "attention": {f"block3_{i}": generator.integers(0, 99, (2, 3)) for i in range(9)},
            "dual": False,
            "rasters": [
                Raster(stage, generator.random((64, 8)) < 0.2, 12345 + i, 0.1 * i + 0.123)
                for i, stage in enumerate(stages)
            ],
            "levels": 4,
            "timesteps": 2,
            "saliency": generator.random((32, 48)),
            "grad_cam": generator.random((2, 3)),
            **fields,
        }
    )


def written(sheet) -> list[str]:
    return [text.get_text() for axes in sheet.figure.axes for text in axes.texts]


def drawn(sheet) -> list[np.ndarray]:
    """The arrays that are drawn as pictures."""
    return [np.asarray(image.get_array()) for axes in sheet.figure.axes for image in axes.get_images()]


def test_everything_is_drawn_and_named():
    given = explanation()
    sheet = explained_sheet(given, ("cat", "dog", "owl"), "runs/one, step 3")
    texts, arrays = written(sheet), drawn(sheet)
    for values in (given.saliency, given.grad_cam, *(raster.spikes for raster in given.rasters)):
        assert any(array.shape == values.shape and np.array_equal(array, values) for array in arrays)
    for block, received in given.attention.items():
        shares = received * received.size / received.sum()
        assert any(a.shape == shares.shape and np.allclose(a, shares) for a in arrays), block
        assert f"{block}, max {shares.max():.1f}" in texts
    for raster in given.rasters:
        assert f"{raster.stage}: firing rate {100 * raster.rate:.1f} %" in texts
        assert f"64 of {raster.neurons:,} neurons" in texts
    assert texts.count("surrogate gradients, score of dog") == 2 and "dog" in texts
    assert any("q_i · k_j" in text for text in texts) and any("T = 2 x D = 4" in text for text in texts)
    assert "0 everywhere" not in texts


@pytest.mark.parametrize("names", [("cat", "dog", "owl"), (LONG,) * 3], ids=["short", "long"])
def test_no_text_leaves_the_sheet_or_meets_another(names):
    sheet = explained_sheet(explanation(), names, LONG)
    sheet.png()
    page, boxes = sheet.figure.bbox, []
    shown = [axes for axes in sheet.figure.axes if axes.axison]
    labels = [label for axes in shown for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]]
    for text in [*labels, *(text for axes in sheet.figure.axes for text in axes.texts)]:
        if text.get_text():
            box = text.get_window_extent()
            assert page.x0 <= box.x0 and box.x1 <= page.x1, text.get_text()
            assert page.y0 <= box.y0 and box.y1 <= page.y1, text.get_text()
            meets = [other for other, it in boxes if it.overlaps(box)]
            assert meets == [], text.get_text()
            boxes.append((text.get_text(), box))


def test_a_bundle_says_why_it_has_no_gradients():
    texts = written(explained_sheet(explanation(saliency=None, grad_cam=None), ("cat", "dog", "owl"), "x"))
    assert NO_GRADIENTS in texts and "input gradient" not in texts and "Grad-CAM, last stage" not in texts


def test_what_is_zero_is_said():
    """No attention, no gradient: a word in the place of a picture of one colour."""
    nothing = {"attention": {"block3_0": np.zeros((2, 3), int)}, "saliency": np.zeros((32, 48))}
    texts = written(explained_sheet(explanation(**nothing), ("cat", "dog", "owl"), "x"))
    assert texts.count("0 everywhere") == 2 and "block3_0, max 0.0" in texts and "0" not in texts


def test_dssa_has_its_own_formula():
    texts = written(explained_sheet(explanation(dual=True), ("cat", "dog", "owl"), "x"))
    assert any("A_pl" in text for text in texts) and not any("q_i" in text for text in texts)


def test_a_picture_is_known_as_one_of_predict():
    content = explained_sheet(explanation(), ("cat", "dog", "owl"), "x").png()
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.info["Software"] == "qsdt_jax predict"
