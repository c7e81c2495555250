"""COCO's files: what they say, what is left out of them and counted, and what is refused."""

import json

import pytest

from qsdt_jax.data.dense.coco_file import read_coco
from qsdt_jax.data.dense.instances import as_dataset
from qsdt_jax.errors import UserError
from tests.data.dense.coco_files import CATEGORIES, annotation, content, image, without, write_json

IMAGES = [image(20), image(-4)]
GOOD = annotation(5, 20)


def read(tmp_path, value):
    return read_coco(write_json(tmp_path / "instances_train.json", value))


def test_ids_have_gaps_and_no_order(tmp_path):
    found = read(tmp_path, content(IMAGES, [GOOD, annotation(0, -4, category_id=3)]))
    assert [tuple(category) for category in found.categories] == [(3, "cat"), (7, "dog")]
    assert [one.id for one in found.images] == [-4, 20]
    assert [one.file_name for one in found.images] == ["00-4.jpg", "0020.jpg"]
    assert [[o.category for o in one.instances] for one in found.images] == [[0], [1]]
    assert found.images[0].size == (24, 36) and found.told == ()


def test_what_was_read_is_written_again_as_it_was(tmp_path):
    crowd = annotation(9, 20, iscrowd=1, segmentation={"size": [24, 36], "counts": [10, 20, 834]})
    value = content([image(1), image(20)], [annotation(2, 1, (1.25, 2.5, 3.75, 4.125)), GOOD, crowd])
    value["categories"].sort(key=lambda category: category["id"])
    found = read(tmp_path, value)
    dataset = as_dataset(found.images, found.categories)
    assert json.loads(json.dumps(dataset)) == dataset
    expected = json.loads(json.dumps(value))
    assert isinstance(dataset["annotations"][2]["segmentation"].pop("counts"), str)  # Compressed.
    del expected["annotations"][2]["segmentation"]["counts"]
    assert dataset == expected


SMALL = "with boxes or masks smaller than a pixel, not learnt"
NO_POLYGON = "with a mask without a polygon of three points, left out"
SHORT = "with polygons of fewer than three points beside others, which are left out"
NO_MASK = "without a mask, for which their boxes are taken"


@pytest.mark.parametrize(
    ("entry", "told", "scored", "learnt"),
    [
        (annotation(6, 99), "of images that it does not list, left out", 0, 0),
        (annotation(6, 20, category_id=4), "of categories that it does not list, left out", 0, 0),
        (annotation(6, 20, (4, 4, -3, 3)), "with boxes of a negative side, left out", 0, 0),
        (annotation(6, 20, (4, 4, 0, 3)), SMALL, 1, 0),
        (annotation(6, 20, (4, 4, 5, 0.5)), SMALL, 1, 0),
        (annotation(6, 20, area=0), SMALL, 1, 0),
        (annotation(6, 20, (40, 4, 5, 5)), SMALL, 1, 0),
        (annotation(6, 20, (30, 4, 9, 5)), "with boxes that reach beyond their images, clipped", 1, 1),
        (annotation(6, 20, (30, 4, 6.01, 5)), None, 1, 1),
        (annotation(6, 20, segmentation=[[1, 2, 3, 4]]), NO_POLYGON, 0, 0),
        (annotation(6, 20, segmentation=[[1, 2, 3, 4], [1, 2, 3, 4, 5, 9]]), SHORT, 1, 1),
        (
            annotation(6, 20, segmentation={"size": [36, 24], "counts": [864]}),
            "with a mask of another size than its image, left out",
            0,
            0,
        ),
        (annotation(6, 20, segmentation=[]), NO_MASK, 1, 1),
        (without(annotation(6, 20), "segmentation"), NO_MASK, 1, 1),
        (without(annotation(6, 20), "iscrowd"), None, 1, 1),
        (without(annotation(6, 20), "area"), None, 1, 1),
        (annotation(6, 20, iscrowd=1), None, 1, 0),
    ],
)
def test_what_is_of_no_use_is_counted(tmp_path, entry, told, scored, learnt):
    found = read(tmp_path, content(IMAGES, [GOOD, entry]))
    of_image = found.images[1]
    assert len(of_image.instances) == 1 + scored and len(of_image.usable) == 1 + learnt
    file = tmp_path / "instances_train.json"
    assert list(found.told) == ([f"{file}: 1 annotation {told} (6 for one)"] if told else [])


def test_a_line_counts_all_of_its_reason(tmp_path):
    entries = [annotation(i, 20, (4, 4, -1, 3)) for i in range(1200)]
    found = read(tmp_path, content(IMAGES, [*entries, annotation(5000, 99)]))
    assert [line.split(": ")[1] for line in found.told] == [
        "1,200 annotations with boxes of a negative side, left out (0 for one)",
        "1 annotation of images that it does not list, left out (5000 for one)",
    ]


def test_a_missing_area_is_that_of_the_mask(tmp_path):
    entry = without(annotation(6, 20, segmentation={"size": [24, 36], "counts": [100, 17, 747]}), "area")
    assert read(tmp_path, content(IMAGES, [entry])).images[1].instances[0].area == 17


def test_boxes_are_clipped_to_their_image(tmp_path):
    entries = [annotation(6, 20, (-2, 4, 9, 5)), annotation(7, 20, (30, 20, 60.5, 70))]
    objects = read(tmp_path, content(IMAGES, entries)).images[1].objects()
    assert objects["boxes"].tolist() == [[0, 4, 7, 9], [30, 20, 36, 24]]
    assert objects["masks"].sum((1, 2)).tolist() == [7 * 5, 6 * 4]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([], "expected lists of images, annotations, categories"),
        (without(content(IMAGES, []), "annotations"), "expected lists of images, annotations, categories"),
        (content(IMAGES, [], []), "expected categories; found none"),
        (content([image(1), image(1)], []), "two images have the id 1"),
        (content(IMAGES, [GOOD, GOOD]), "two annotations have the id 5"),
        (content(IMAGES, [], [*CATEGORIES, {"id": 3, "name": "cow"}]), "two categories have the id 3"),
        (content(IMAGES, [], [*CATEGORIES, {"id": 4, "name": "cat"}]), "two categories have the name 'cat'"),
        (content(IMAGES, [], [{"id": 4, "name": ""}]), "category 4 has the name ''; expected a text"),
        (content([image("1")], []), "the image in place 0 has id='1'; expected a whole number"),
        (content([image(1.0)], []), "the image in place 0 has id=1.0; expected a whole number"),
        (content([image(True)], []), "the image in place 0 has id=True; expected a whole number"),
        (content([3], []), "image in place 0 is no entry with an id"),
        (content(IMAGES, [without(GOOD, "id")]), "the annotation in place 0 has no 'id'"),
        (content(IMAGES, [without(GOOD, "bbox")]), "annotation 5 has no 'bbox'"),
        (content(IMAGES, [without(GOOD, "image_id")]), "annotation 5 has no 'image_id'"),
        (content(IMAGES, [without(GOOD, "category_id")]), "annotation 5 has no 'category_id'"),
        (content(IMAGES, [{**GOOD, "bbox": [1, 2, 3]}]), "annotation 5 has bbox=[1, 2, 3]; expected four"),
        (content(IMAGES, [{**GOOD, "bbox": [1, 2, 3, "4"]}]), "expected four numbers"),
        (content(IMAGES, [{**GOOD, "bbox": [1, 2, 3, 1e40]}]), "expected four numbers"),
        (content(IMAGES, [{**GOOD, "bbox": [1, 2, 3, float("nan")]}]), "expected four numbers"),
        (content(IMAGES, [{**GOOD, "iscrowd": 2}]), "annotation 5 has iscrowd=2; expected 0 or 1"),
        (content(IMAGES, [{**GOOD, "area": "large"}]), "annotation 5 has area='large'; expected a number"),
        (content(IMAGES, [{**GOOD, "segmentation": [[1]]}]), "annotation 5 has the polygon [1]; expected"),
        (content([without(image(1), "width")], []), "image 1 has no 'width'"),
        (content([image(1, width=0)], []), "image 1 is 24x0; expected sides of 1 to 16384 pixels"),
        (content([image(1, height=10**9)], []), "expected sides of 1 to 16384 pixels"),
        (content([image(1, file_name="../a.jpg")], []), "image 1 has file_name='../a.jpg'; expected a name"),
        (content([image(1, file_name="/a.jpg")], []), "expected a name of a file"),
        (content([image(1, file_name="")], []), "expected a name of a file"),
        (content([image(1, file_name=3)], []), "expected a name of a file"),
    ],
)  # fmt: skip
def test_what_is_corrupt_is_refused(tmp_path, value, told):
    with pytest.raises(UserError) as caught:
        read(tmp_path, value)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'instances_train.json'}: ")
    assert told in message and "\n" not in message


def test_what_is_no_json_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file; expected a file instances_"):
        read_coco(tmp_path / "instances_val.json")
    (tmp_path / "a.json").write_text('{"images": [')
    with pytest.raises(UserError, match="is no JSON, or damaged"):
        read_coco(tmp_path / "a.json")
