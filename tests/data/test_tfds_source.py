"""Reading tfds directories, prepared here or by tfds."""

import io
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from absl import flags
from array_record.python import array_record_module
from PIL import Image

from qsdt_jax import retry
from qsdt_jax.data.events.formats.aedat2 import read_aedat2
from qsdt_jax.data.pipeline import evaluation_batches, training_batches
from qsdt_jax.data.prepare.cifar10dvs import read_cifar10dvs
from qsdt_jax.data.prepare.imagefolder import read_imagefolder
from qsdt_jax.data.prepare.writer import prepare
from qsdt_jax.data.preprocess import Preprocess
from qsdt_jax.data.sources import SplitName
from qsdt_jax.data.tfds_source import TfdsSource
from qsdt_jax.errors import CorruptRecord, UserError
from tests.data.prepare.files import ODDITIES, aedat, class_folder, encoded, sideways, write_files

CLASSES = ("ant", "bee", "cat")
IMAGES = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    class_folder(folder / "train", CLASSES, IMAGES)
    class_folder(folder / "val", CLASSES, 2, seed=500)
    others = {
        "photo.bmp": encoded(20, "BMP"),
        "web.webp": encoded(21, "WEBP"),
        "old.gif": encoded(22, "GIF", "P"),
    }
    write_files(folder / "train" / "ant", {**ODDITIES, **others})
    return folder


@pytest.fixture(scope="module")
def directory(folder, tmp_path_factory) -> Path:
    return prepare(read_imagefolder(folder), tmp_path_factory.mktemp("out"), shards=2).directory


@pytest.fixture
def copy(directory, tmp_path) -> Path:
    """A directory to spoil."""
    return shutil.copytree(directory, tmp_path / "copy")


def names(directory: Path, split: str = "train") -> list[str]:
    """The file names in the order of the records, as tfds reads them."""
    decoders = {"image": tfds.decode.SkipDecoding()}
    records = tfds.builder_from_directory(directory).as_data_source(split, decoders=decoders)
    return [record["file_name"].decode() for record in records]


def refusal(directory: Path, split: SplitName = "train", **options) -> str:
    with pytest.raises(UserError) as caught:
        TfdsSource(directory, split, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("channels", "mode"), [(3, "RGB"), (1, "L")])
def test_pixels_are_those_of_pillows_conversion(folder, directory, channels, mode):
    source = TfdsSource(directory, "train", channels)
    assert len(source) == 3 * IMAGES + len(ODDITIES) + 3
    for name, example in zip(names(directory), (source[i] for i in range(len(source))), strict=True):
        with Image.open(folder / "train" / name) as image:
            if image.format in ("BMP", "WEBP", "GIF"):  # Stored as PNG, in RGB.
                image = image.convert("RGB")
            expected = np.asarray(image.convert(mode)).reshape(image.height, image.width, channels)
        pixels = np.asarray(example["image"])
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, expected, err_msg=name)
        assert example["label"] == CLASSES.index(name.split("/")[0])


def test_a_note_to_turn_the_image_is_left_unheeded(directory):
    image = TfdsSource(directory, "train")[names(directory).index("ant/sideways.JPEG")]["image"]
    upright = np.asarray(Image.open(io.BytesIO(encoded(6))).convert("RGB"))
    assert Image.open(io.BytesIO(sideways(6))).getexif()[0x0112] == 6
    np.testing.assert_array_equal(image, upright)


def test_class_names_and_splits(directory):
    train, test = TfdsSource(directory, "train"), TfdsSource(directory, "test")
    assert train.class_names == test.class_names == CLASSES
    assert (train.split, test.split, len(test)) == ("train", "validation", 6)
    with pytest.raises(IndexError):
        test[6]


@pytest.mark.parametrize("above", [1, 2])
def test_a_folder_that_holds_one_data_set_stands_for_it(directory, above):
    assert TfdsSource(directory.parents[above - 1], "train").directory == directory


def test_it_pickles(directory):
    source = TfdsSource(directory, "test", 1)
    source[0]  # Opens the files.
    again = pickle.loads(pickle.dumps(source))
    assert (again.split, len(again), again.class_names) == (source.split, len(source), source.class_names)
    for i in range(len(source)):
        np.testing.assert_array_equal(again[i]["image"], source[i]["image"])
    assert len(pickle.dumps(source)) < 500


@pytest.mark.slow
def test_batches_do_not_depend_on_workers(directory):
    flags.FLAGS.mark_as_parsed()
    preprocess = Preprocess(size=(16, 16), mean=(0.5,), std=(0.5,), augmentation="crop_flip")
    source = TfdsSource(directory, "train")

    def batches(workers: int) -> list:
        stream = training_batches(source, preprocess.train, seed=1, batch_size=7, workers=workers)
        return [next(stream) for _ in range(6)]

    for alone, shared in zip(batches(0), batches(2), strict=True):
        np.testing.assert_array_equal(shared["image"], alone["image"])
        np.testing.assert_array_equal(shared["label"], alone["label"])


def test_evaluation_reads_every_record_once(directory):
    preprocess = Preprocess(size=(16, 16), mean=(0.5,), std=(0.5,))
    batches = list(evaluation_batches(TfdsSource(directory, "test"), preprocess.evaluate, batch_size=4))
    labels = np.concatenate([b["label"][b["mask"] == 1] for b in batches])
    assert sorted(labels) == [0, 0, 1, 1, 2, 2]


# Data sets that tfds made itself


STOCK = {"train": range(6), "validation": range(6, 9), "test": range(9, 11)}


class Stock(tfds.core.GeneratorBasedBuilder):
    """As ImageNet of tfds: a test split without labels."""

    VERSION = tfds.core.Version("5.1.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=3),
            "file_name": tfds.features.Text(),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in STOCK}

    def _generate_examples(self, split):  # pyright: ignore[reportIncompatibleMethodOverride]
        for i in STOCK[split]:
            label = -1 if split == "test" else i % 3
            yield f"{i}", {"image": io.BytesIO(encoded(i)), "label": label, "file_name": f"{i}.jpeg"}


@pytest.fixture(scope="module")
def stock(tmp_path_factory) -> Path:
    builder = Stock(data_dir=tmp_path_factory.mktemp("tfds"), file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_dir)


def test_stock_data_set(stock):
    source = TfdsSource(stock, "train")
    assert source.class_names == ("0", "1", "2")
    numbers = [int(name.split(".")[0]) for name in names(stock)]
    assert sorted(numbers) == list(range(6))
    for number, example in zip(numbers, (source[i] for i in range(6)), strict=True):
        expected = np.asarray(Image.open(io.BytesIO(encoded(number))))
        np.testing.assert_array_equal(example["image"], expected)
        assert example["label"] == number % 3


def test_the_validation_split_comes_before_one_without_labels(stock):
    source = TfdsSource(stock, "test")
    assert (source.split, len(source)) == ("validation", 3)
    assert sorted(example["label"] for example in (source[i] for i in range(3))) == [0, 1, 2]


def test_records_without_a_label(stock, tmp_path):
    copy = shutil.copytree(stock, tmp_path / "copy")
    info = json.loads((copy / "dataset_info.json").read_text())
    info["splits"] = [split for split in info["splits"] if split["name"] != "validation"]
    (copy / "dataset_info.json").write_text(json.dumps(info))
    source = TfdsSource(copy, "test")
    with pytest.raises(
        CorruptRecord, match=r"test record 0 \(\d+\.jpeg\): has the label -1; expected 0\.\.2"
    ):
        source[0]


# Event streams


def test_event_streams(tmp_path):
    streams = {f"cat/cifar10_cat_{i}.aedat": aedat([3 * i, 9, 2 * i + 1], [i, i, i + 1]) for i in range(10)}
    write_files(tmp_path / "source", streams)
    directory = prepare(read_cifar10dvs(tmp_path / "source"), tmp_path / "out").directory
    train, test = TfdsSource(directory, "train", 2), TfdsSource(directory, "test", 2)
    assert (train.kind, len(train), len(test)) == ("events", 9, 1)
    found = [train[i] for i in range(9)]
    expected = [read_aedat2(content, name) for name, content in list(streams.items())[:9]]
    by_time = sorted((np.asarray(e["events"]) for e in found), key=lambda events: events["t"][0])
    for events, wanted in zip(by_time, expected, strict=True):
        # The camera lay on its side.
        for field, turned in zip("txyp", "tyxp", strict=True):
            np.testing.assert_array_equal(events[field], wanted[turned])
    assert [example["label"] for example in found] == [0] * 9


# Damage


def flip(file: Path, share: float) -> None:
    content = bytearray(file.read_bytes())
    content[int(share * len(content))] ^= 1
    file.write_bytes(content)


def outcomes(source: TfdsSource) -> list[bytes | str]:
    """The pixels of each record, or what was wrong with it."""
    found = []
    for i in range(len(source)):
        try:
            found.append(np.asarray(source[i]["image"]).tobytes())
        except CorruptRecord as error:
            assert "\n" not in str(error)
            found.append(str(error))
    return found


def test_a_flipped_bit_costs_one_record(directory, copy):
    good = outcomes(TfdsSource(directory, "train"))
    place = shard_content(copy, 0)
    for share in np.linspace(place, 0.9 * place, 5):
        shutil.copy(shard(directory, 0), shard(copy, 0))
        flip(shard(copy, 0), share)
        bad = outcomes(TfdsSource(copy, "train"))
        wrong = [i for i, (a, b) in enumerate(zip(good, bad, strict=True)) if a != b]
        assert len(wrong) == 1
        assert str(bad[wrong[0]]).startswith(f"{copy}, train record {wrong[0]}: cannot be read (")


def shard(directory: Path, number: int) -> Path:
    return directory / f"imagefolder-train.array_record-{number:05d}-of-00002"


def shard_content(directory: Path, number: int) -> float:
    """The share of a shard's file up to which it holds records, which the index follows."""
    content = shard(directory, number).read_bytes()
    return (content.rfind(b"\xff\xd9") - 2) / len(content)


@pytest.mark.parametrize("part", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_shard_that_is_cut_off(copy, part):
    file = shard(copy, 1)
    records = tfds.builder_from_directory(copy).info.splits["train"].shard_lengths[1]
    file.write_bytes(file.read_bytes()[: int(part * file.stat().st_size)])
    assert refusal(copy) == f"{file} is damaged or cut off; expected {records} records"
    assert len(TfdsSource(copy, "test")) == 6


def test_a_shard_that_is_cut_off_while_it_is_read(directory, copy):
    source = TfdsSource(copy, "train")
    file = shard(copy, 0)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    good, bad = outcomes(TfdsSource(directory, "train")), outcomes(source)
    lost = tfds.builder_from_directory(directory).info.splits["train"].shard_lengths[0]
    assert bad[:lost] == [f"{copy}, train record {i}: is empty" for i in range(lost)]
    assert bad[lost:] == good[lost:]


def test_a_shard_of_another_split(copy):
    records = tfds.builder_from_directory(copy).info.splits["train"].shard_lengths[0]
    shutil.copy(next(copy.glob("*validation*")), shard(copy, 0))
    assert refusal(copy) == f"{shard(copy, 0)} has 6 records; expected {records} records"


def test_an_image_that_cannot_be_decoded_is_named(copy):
    """A tfds directory of another hand may hold what ours leaves out."""
    features = tfds.builder_from_directory(copy).info.features
    from array_record.python.array_record_module import ArrayRecordWriter

    lengths = tfds.builder_from_directory(copy).info.splits["train"].shard_lengths
    writer = ArrayRecordWriter(str(shard(copy, 1)), "group_size:1")
    for i in range(lengths[1]):
        writer.write(features.serialize_example({"image": b"no", "label": 0, "file_name": f"{i}.jpg"}))
    writer.close()
    with pytest.raises(CorruptRecord, match=rf"train record {lengths[0]} \(0\.jpg\): not a readable image"):
        TfdsSource(copy, "train")[lengths[0]]


# A disk that fails


class Failing:
    """Stands for array_record's readers: the first calls of the system fail, as it tells them."""

    def __init__(self, monkeypatch, method: str, text: str, times: float):
        self.calls, original = 0, array_record_module.ArrayRecordReader
        failing = self

        class Reader:
            def __init__(self, *args, **options):
                self.failed = method == "open" and failing.fails(times)
                self.reader = original(*args, **options)

            def __getattr__(self, name):
                return getattr(self.reader, name)

            def read(self, positions):
                # A reader whose file could not be opened keeps the error.
                if self.failed or (method == "pread" and failing.fails(times)):
                    raise RuntimeError(f"{method}() failed: {text}; reading a; at byte 5; Could not read")
                return self.reader.read(positions)

        monkeypatch.setattr(array_record_module, "ArrayRecordReader", Reader)
        monkeypatch.setattr(retry, "WAITS", (0, 0))

    def fails(self, times: float) -> bool:
        self.calls += 1
        return self.calls <= times


@pytest.mark.parametrize("method", ["open", "pread"])
@pytest.mark.parametrize("text", ["Input/output error", "Stale file handle", "Too many open files"])
def test_a_call_that_fails_for_a_moment(directory, monkeypatch, method, text):
    expected = np.asarray(TfdsSource(directory, "train")[3]["image"])
    source = TfdsSource(directory, "train")
    failing = Failing(monkeypatch, method, text, times=2)
    np.testing.assert_array_equal(source[3]["image"], expected)
    assert failing.calls == 3


@pytest.mark.parametrize("method", ["open", "pread"])
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Stale file handle", r"cannot be read: Stale file handle; tried 3 times"),
        ("No such file or directory", r"cannot be read \(No such file or directory\)"),
        ("something that has no number", "cannot be read: Input/output error"),
    ],
)
def test_a_call_that_keeps_failing_is_no_corrupt_record(directory, monkeypatch, method, text, told):
    source = TfdsSource(directory, "train")
    Failing(monkeypatch, method, text, times=99)
    with pytest.raises(UserError, match=rf"^{directory}, train record 3:? {told}") as caught:
        source[3]
    assert not isinstance(caught.value, CorruptRecord)


def test_a_shard_that_is_gone_while_it_is_read(directory, copy):
    """What array_record itself says of it."""
    source, good = TfdsSource(copy, "train"), TfdsSource(directory, "train")
    shard(copy, 1).rename(copy / "away")
    last = len(source) - 1
    with pytest.raises(UserError, match=rf"record {last}: cannot be read \(No such file or dir") as caught:
        source[last]
    assert not isinstance(caught.value, CorruptRecord)
    (copy / "away").rename(shard(copy, 1))
    np.testing.assert_array_equal(source[last]["image"], good[last]["image"])


# Class names


def test_class_names_have_one_form(copy):
    (copy / "label.labels.txt").write_text("a\u0301\nbee\ncat\n")
    assert TfdsSource(copy, "train").class_names == ("\u00e1", "bee", "cat")
    (copy / "label.labels.txt").write_text("a\u0301\nbee\n\u00e1\n")
    assert "has the class '\u00e1' twice, perhaps in two forms of Unicode" in refusal(copy)


# Mistakes


def test_no_directory(tmp_path):
    assert "is no tfds data set: it has no dataset_info.json" in refusal(tmp_path / "nowhere")
    class_folder(tmp_path, CLASSES, 1)
    assert "`python -m launch prepare` makes one" in refusal(tmp_path)


def test_several_data_sets(directory, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(directory, tmp_path / name / "1.0.0")
    assert f"holds several data sets; expected one of {tmp_path}/a/1.0.0" in refusal(tmp_path)


def test_unfinished_preparation(copy):
    (copy / "dataset_info.json").unlink()
    (copy / ".preparing").mkdir()
    assert f"{copy} is not finished; give the command that prepares it again" in refusal(copy)


def write_metadata(directory: Path, features: dict, file_format: str = "array_record") -> None:
    directory.mkdir()
    identity = tfds.core.DatasetIdentity("x", tfds.core.Version("1.0.0"), str(directory), "")
    info = tfds.core.DatasetInfo(builder=identity, features=tfds.features.FeaturesDict(features))
    info.set_file_format(file_format)
    template = tfds.core.ShardedFileTemplate(
        tfds.core.Path(directory), dataset_name="x", filetype_suffix=file_format
    )
    split = tfds.core.SplitInfo(name="train", shard_lengths=[1], num_bytes=1, filename_template=template)
    info.set_splits(tfds.core.SplitDict([split]))
    info.write_to_directory(directory)


IMAGE, LABEL = tfds.features.Image(), tfds.features.ClassLabel(num_classes=2)


def test_tfrecord(tmp_path):
    write_metadata(tmp_path / "x", {"image": IMAGE, "label": LABEL}, "tfrecord")
    assert "is in the format tfrecord; expected array_record: prepare it again" in refusal(tmp_path / "x")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"image": IMAGE}, "no label of classes; found the features image"),
        ({"image": IMAGE, "label": tfds.features.Text()}, "no label of classes"),
        ({"text": tfds.features.Text(), "label": LABEL}, "no image of uint8, nor events"),
        ({"image": tfds.features.Image(dtype=np.uint16), "label": LABEL}, "no image of uint8"),
        ({"events": tfds.features.Text(), "label": LABEL}, "found the features events, label"),
    ],
)
def test_other_features(tmp_path, features, message):
    write_metadata(tmp_path / "x", features)
    assert message in refusal(tmp_path / "x")


def test_missing_shard(copy):
    shard(copy, 1).unlink()
    expected = "lacks 1 of 2 shards, imagefolder-train.array_record-00001-of-00002 for one"
    assert expected in refusal(copy)


def test_missing_split(copy):
    info = json.loads((copy / "dataset_info.json").read_text())
    info["splits"] = [split for split in info["splits"] if split["name"] == "train"]
    (copy / "dataset_info.json").write_text(json.dumps(info))
    assert "no test split; expected validation or val or test, found train" in refusal(copy, "test")


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", None])
def test_damaged_metadata(copy, file, content):
    if content is None and file == "features.json":
        (copy / file).unlink()
    else:
        (copy / file).write_bytes(content or b"[]")
    assert f"{copy} cannot be read by tfds" in refusal(copy)


def test_channels(directory):
    assert "give 1 or 3 channels, but the network takes 2" in refusal(directory, channels=2)
