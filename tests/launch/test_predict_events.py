"""Predictions of files of events: frames and logits are those of evaluation."""

import dataclasses
import io
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import qsdt_jax
from configs import digits_dvs
from qsdt_jax.answers import answering
from qsdt_jax.answers.classes import CLASSES, Prediction
from qsdt_jax.answers.pictures import Shown
from qsdt_jax.answers.streams import given_files
from qsdt_jax.assemble.data import build_source
from qsdt_jax.assemble.split import Split
from qsdt_jax.assemble.tasks import build_task
from qsdt_jax.data.classes import numbers
from qsdt_jax.data.prepare.cifar10dvs import read_cifar10dvs
from qsdt_jax.data.prepare.examples import example_of
from qsdt_jax.deploy.bundle import read_bundle, write_bundle
from qsdt_jax.errors import CorruptRecord, UserError
from qsdt_jax.loading.deployed import Deployed, bundle_of, load_deployed, with_inputs_of
from qsdt_jax.loading.trained import Trained, load_trained
from qsdt_jax.sheets.frames import MOST_STREAMS, FramesShown, coloured
from qsdt_jax.tasks.task import variable_shapes
from tests.data.events.formats.written import aedat3, aedat4, aedat4_events
from tests.data.prepare.files import aedat, write_files
from tests.launch.tiny import draw, launch, make_state, tiny_config, write_workdir

BATCH = 4
GOLDEN = Path(__file__).parents[1] / "golden"


def event_config() -> ConfigDict:
    config = digits_dvs.get_config()
    config.model.channels = (8, 8, 16, 16)
    config.model.depth = 2
    config.model.num_heads = 4
    config.eval.batch_size = BATCH
    config.data.source, config.data.fake_images, config.data.fake_classes = "fake", 2 * BATCH, 10
    return config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    config = event_config()
    variables = draw(variable_shapes(build_task(config, numbers(10))), 1)
    folder = tmp_path_factory.mktemp("events")
    return write_workdir(folder, config, {0: make_state(config, variables)})


@pytest.fixture(scope="module")
def trained(workdir) -> Trained:
    return load_trained(workdir)


@pytest.fixture(scope="module")
def deployed(trained, tmp_path_factory) -> Deployed:
    file = tmp_path_factory.mktemp("bundle") / "model.qsdt"
    write_bundle(file, bundle_of(trained))
    return load_deployed(file)


def npz(events: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez(content, **{field: events[field] for field in "xytp"})
    return content.getvalue()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """The first streams of the test split; the sensor of 32x32 is not in the files."""
    folder, source = tmp_path_factory.mktemp("files"), build_source(event_config(), "test")
    write_files(folder, {f"{i}.npz": npz(source[i]["events"]) for i in range(BATCH)})
    return [str(folder / f"{i}.npz") for i in range(BATCH)]


def predicted(network, files, *given):
    shown = given_files(network, *given)
    return list(CLASSES.stream(shown, map(shown.show, files)))


@pytest.fixture(scope="module")
def evaluated(trained) -> tuple[np.ndarray, np.ndarray]:
    """Frames and logits of the first batch of an evaluation."""
    batch = next(Split(trained.config, "test", trained.classes).batches("evaluated"))
    return np.asarray(batch["image"]), np.asarray(trained.outputs({"image": batch["image"]}))


@pytest.mark.slow
def test_frames_and_logits_are_those_of_evaluation(trained, files, evaluated):
    found = predicted(trained, files, (32, 32))
    frames, logits = evaluated
    assert frames.shape == (BATCH, 2, 32, 32, 2) and frames.sum() > 100 * BATCH
    np.testing.assert_array_equal(np.stack([answer.view for answer in found]), frames)
    np.testing.assert_array_equal(np.stack([answer.logits for answer in found]), logits)
    assert len({answer.logits.tobytes() for answer in found}) == BATCH


@pytest.mark.slow
def test_the_library_predicts_recordings(workdir, deployed, files, evaluated):
    for network in map(qsdt_jax.load, (workdir, deployed.path)):
        found = network.predict_events(map(Path, files), sensor_size=(32, 32))
        np.testing.assert_array_equal(found.logits, evaluated[1])
        one = network.predict_events(files[1], sensor_size=(32, 32))
        assert one.top(2) == found.top(2)[1:2]
        with pytest.raises(UserError, match="does not say how large its sensor was"):
            network.predict_events(files[0])
        with pytest.raises(UserError, match="no recordings; expected at least one"):
            network.predict_events([])
        with pytest.raises(UserError, match="expected a network of images"):
            network.predict([np.zeros((32, 32), np.uint8)])
    images = qsdt_jax.load(GOLDEN / "digits.qsdt")
    with pytest.raises(UserError, match="takes no events; expected a network of them, or predict"):
        images.predict_events(files)


@pytest.mark.slow
def test_a_bundle_knows_its_slicing(trained, deployed, files, evaluated):
    assert deployed.bundle.slicing == "time"
    found = predicted(deployed, files, (32, 32))
    np.testing.assert_array_equal(np.stack([answer.logits for answer in found]), evaluated[1])
    config = trained.config.copy_and_resolve_references()
    config.data.slicing = "sum"
    assert with_inputs_of(deployed, config).data.slicing == "time"


def test_bundles_of_before_are_refused_in_one_line(deployed, tmp_path):
    before = dataclasses.replace(deployed, bundle=dataclasses.replace(deployed.bundle, slicing=None))
    with pytest.raises(UserError, match="does not say how events become its frames, as bundles of before"):
        given_files(before)
    odd = tmp_path / "odd.qsdt"
    write_bundle(odd, dataclasses.replace(deployed.bundle, slicing="other"))  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="slicing 'other'; expected count, time, sum, or none"):
        read_bundle(odd)
    write_bundle(odd, dataclasses.replace(read_bundle(GOLDEN / "digits.qsdt"), slicing="time"))
    with pytest.raises(UserError, match="slicing 'time', but frames of events have 2 or 3 channels"):
        read_bundle(odd)


@pytest.mark.slow
def test_command_line(workdir, deployed, files, capsys, tmp_path):
    """Files of every kind, and those that are none, which do not stop the others."""
    events = [(1000 * i, i % 32, i % 30, i % 2) for i in range(400)]
    good = {
        "a.aedat4": aedat4([(0, aedat4_events(events))]).replace(b"346", b"032").replace(b"260", b"032"),
        "b.txt": "\n".join(f"{t / 1e6} {x} {y} {p}" for t, x, y, p in events).encode(),
    }
    bad = {
        "cut.aedat": aedat3([events])[:-3],
        "other.aedat": aedat3([[(1, 32, 1, 1)]]),
        "page.csv": b"<html>",
    }
    write_files(tmp_path, {**good, **bad})
    Image.new("L", (32, 32)).save(tmp_path / "picture.png")
    names = [*files, *(tmp_path / name for name in [*good, *bad, "picture.png", "none.npz", "none"])]
    words = ["--workdir", workdir, "--sensor_size=32,32", "--sheet", tmp_path / "sheet.png", "--top=1"]
    assert launch("predict", *words, *names) == 2
    told = capsys.readouterr()
    lines = dict(line.split(": ") for line in told.out.splitlines())
    assert list(lines) == [*files, str(tmp_path / "a.aedat4"), str(tmp_path / "b.txt")]
    assert lines[str(tmp_path / "a.aedat4")] == lines[str(tmp_path / "b.txt")]
    errors = [line for line in told.err.splitlines() if line.startswith("error: ")]
    expected = [
        "cut.aedat: has a packet of 400 events of 8 bytes, of which 3,197 bytes are there; the file is cut",
        "other.aedat: has an event at x = 32; the sensor is 32x32",
        "page.csv: is an HTML page; expected a text of events",
        "picture.png: is an image; expected one of events (.aedat, .aedat2, .aedat4, .bin, .npy, .npz, "
        f".txt, .csv, .h5, .hdf5) for {workdir}, step 0",
        "none.npz: no such file",
        "none: is no file of events",
    ]  # fmt: skip
    assert len(errors) == len(expected) + 1
    for line, end in zip(errors, expected, strict=False):
        assert line.startswith(f"error: {tmp_path / end}")
    assert Image.open(tmp_path / "sheet.png").format == "PNG"
    words = ["--bundle", deployed.path, "--sensor_size=32,32", "--top=1"]
    assert launch("predict", *words, files[0]) == 0
    assert capsys.readouterr().out == f"{files[0]}: {lines[files[0]]}\n"


@pytest.mark.slow
def test_the_start_of_the_guide(workdir, capsys, tmp_path, monkeypatch):
    """A network of drawn weights stands for the one that is trained."""
    monkeypatch.chdir(tmp_path)
    guide = (Path(__file__).parents[2] / "docs/guides/events.md").read_text()
    exec(guide.split("```python\n")[1].partition("```")[0], {})
    command = next(line for line in guide.splitlines() if line.endswith("digit.npz"))
    words = command.removeprefix("python -m launch ").replace("runs/digits_dvs", str(workdir)).split()
    assert launch(*words) == 0
    assert capsys.readouterr().out.startswith("digit.npz: ")


def test_a_sensor_that_nobody_tells_is_not_guessed(trained, files):
    with pytest.raises(UserError, match=r"0\.npz: does not say how large its sensor was; expected sen"):
        given_files(trained).show(files[0])
    with pytest.raises(CorruptRecord, match=r"0\.npz: has an event at [xy] = \d+; the sensor is 9x9"):
        given_files(trained, (9, 9)).show(files[0])
    with pytest.raises(UserError, match="sensor_size: expected the height and the width"):
        given_files(trained, (9,))


def test_another_sensor_is_pooled_as_in_evaluation(trained, tmp_path, capsys):
    """And one of another shape is told once."""
    write_files(
        tmp_path,
        {"a.aedat": aedat3([[(5, 127, 64, 1)]]), "b.aedat4": aedat4([(0, aedat4_events([(1, 345, 0, 0)]))])},
    )
    given = given_files(trained)
    square = given.show(str(tmp_path / "a.aedat"))
    assert np.argwhere(square.view["image"]).tolist() == [[0, 16, 31, 1]] and square.size == (128, 128)
    assert capsys.readouterr().err == ""
    for _ in range(2):
        wide = given.show(str(tmp_path / "b.aedat4"))
    assert np.argwhere(wide.view["image"]).tolist() == [[0, 0, 31, 0]]
    assert capsys.readouterr().err == "a sensor of 260x346 is shown in frames of 32x32, of another shape\n"


def test_a_size_that_is_given_holds(trained, tmp_path, capsys):
    """For programs that write the size of one camera whatever it was, as v2e does in AEDAT 4."""
    write_files(tmp_path, {"a.aedat4": aedat4([(0, aedat4_events([(1, 31, 16, 1)]))])})
    given = given_files(trained, (32, 32))
    for _ in range(2):
        frames = given.show(str(tmp_path / "a.aedat4")).view["image"]
    assert np.argwhere(frames).tolist() == [[0, 16, 31, 1]]
    told = "files say a sensor of 260x346; 32x32 was given, and holds\n"
    assert capsys.readouterr().err == told


def test_streams_of_cifar10_dvs_are_turned_as_they_are_prepared(trained, tmp_path, capsys):
    """By their names, unless the user says something else."""
    words = [(3 << 8) | (50 << 1), (100 << 8) | (7 << 1) | 1]
    names = [f"cat/cifar10_cat_{i}.aedat" for i in range(10)]
    write_files(tmp_path, {**dict.fromkeys(names, aedat(words, [1, 2])), "other.aedat": aedat(words, [1, 2])})
    dataset = read_cifar10dvs(tmp_path)
    example = example_of(dataset.splits["train"][0], dataset)
    events = np.rec.fromarrays([example["events"][field] for field in "txyp"], names="t,x,y,p")
    prepared = trained.inputs.evaluate({"events": events, "sensor_size": (128, 128)})["image"]
    turned = given_files(trained).show(str(tmp_path / names[0])).view["image"]
    np.testing.assert_array_equal(turned, prepared)
    assert "files called as those of CIFAR10-DVS are turned upright" in capsys.readouterr().err
    plain = given_files(trained).show(str(tmp_path / "other.aedat")).view["image"]
    np.testing.assert_array_equal(plain, prepared.swapaxes(1, 2))
    assert not np.array_equal(plain, turned)
    for file, on_its_side, expected in ((names[0], False, plain), ("other.aedat", True, turned)):
        found = given_files(trained, (), on_its_side).show(str(tmp_path / file)).view["image"]
        np.testing.assert_array_equal(found, expected)
    assert capsys.readouterr().err == ""


def test_a_network_of_images_is_shown_no_events(tmp_path_factory, tmp_path, capsys):
    config = tiny_config()
    state = make_state(config, draw(variable_shapes(build_task(config, numbers(10))), 1))
    workdir = write_workdir(tmp_path_factory.mktemp("images"), config, {0: state})
    write_files(tmp_path, {"a.aedat": aedat([1], [1])})
    file = tmp_path / "a.aedat"
    assert launch("predict", "--workdir", workdir, file) == 2
    first = capsys.readouterr().err.splitlines()[0]
    assert first == f"error: {file}: is a file of events; expected an image for {workdir}, step 0"
    for flag in ("--sensor_size=32,32", "--on_its_side"):
        assert launch("predict", "--workdir", workdir, flag, file) == 2
        told = f"sensor_size and on_its_side are of event files, but {workdir}, step 0 takes images"
        assert capsys.readouterr().err == f"error: {told}\n"


@pytest.mark.parametrize(
    ("size", "told"),
    [("34x34", "expected HEIGHT,WIDTH in pixels"), ("34,99999", "expected at most 16384 pixels a side")],
)
def test_mistakes_of_the_flag(workdir, capsys, size, told):
    assert launch("predict", "--workdir", workdir, f"--sensor_size={size}", "a.npz") == 2
    assert capsys.readouterr().err == f"error: --sensor_size={size}: {told}\n"


def test_streams_are_not_explained(workdir, deployed, files, capsys):
    words = ("--explain", "--sensor_size=32,32", files[0])
    for network, place in (("--workdir", workdir), ("--bundle", deployed.path)):
        assert launch("predict", network, place, *words) == 2
        title = f"{place}, step 0" if network == "--workdir" else place
        told = f"error: --explain is for networks of images; {title} takes events"
        assert capsys.readouterr().err.splitlines()[-1] == told


# The sheet


def test_colours():
    """White where nothing happens; blue for brighter, red for darker; darker the more."""
    frames = np.zeros((2, 2, 2, 2), np.float32)
    frames[0, 0, 0, 1], frames[0, 0, 1, 0], frames[1, 0, 0, 1], frames[1, 1, 1] = 4, 4, 1, 4
    pictures = coloured(frames).astype(int)
    assert pictures.shape == (2, 2, 2, 3)
    np.testing.assert_array_equal(pictures[0, 1], 255)
    red, green, blue = pictures[0, 0, 0]
    assert blue > 150 and red < 60 and green < 100
    red, green, blue = pictures[0, 0, 1]
    assert red > 150 and blue < 60 and green < 60
    assert pictures[1, 0, 0].sum() > pictures[0, 0, 0].sum() and pictures[1, 0, 0].min() < 200
    assert (pictures[1, 1, 1] < 60).sum() == 3
    assert (coloured(np.zeros((1, 2, 2, 2))) == 255).all()
    three = np.concatenate((frames, frames.sum(-1, keepdims=True)), -1)
    np.testing.assert_array_equal(coloured(three), pictures)


@pytest.mark.parametrize("timesteps", [1, 2, 16, 40])
def test_sheet(tmp_path, timesteps):
    generator = np.random.default_rng(0)
    shown = FramesShown("run", ("hand clapping", "b", "c"), 2)
    for i in range(3):
        frames = generator.poisson(0.1, (timesteps, 16, 32, 2)).astype(np.float32)
        answer = Prediction(name=f"{i}.aedat", view=frames, logits=np.array([2, 0, 1.0], np.float32))
        assert shown.add(answer) == "hand clapping 66.52 %, c 24.47 %"
    shown.draw(tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    assert (pixels[..., 2] - pixels[..., 0] > 60).any() and (pixels[..., 0] - pixels[..., 2] > 60).any()
    dark = pixels.min(-1) < 250
    assert not any(edge.any() for edge in (dark[0], dark[-1], dark[:, 0], dark[:, -1]))


def test_a_sheet_holds_so_many_streams():
    shown = FramesShown("run", ("a",), 1)
    for i in range(MOST_STREAMS + 5):
        shown.add(Prediction(name=str(i), view=np.zeros((1, 1, 1, 2)), logits=np.zeros(1, np.float32)))
    assert [answer.name for answer in shown.drawn] == [str(i) for i in range(MOST_STREAMS)]


def test_batches_of_frames_count_their_pixels(monkeypatch):
    """T frames of H x W are as many images."""
    monkeypatch.setattr(answering, "LARGEST_IMAGES", 2 * 4 * 8 * 8)
    view = {"image": np.zeros((4, 8, 8, 2), np.float32)}
    images = [Shown(str(i), (8, 8), view, view["image"]) for i in range(5)]
    found = list(answering.in_batches(iter(images), lambda batch: jax.device_get(batch["image"]), None))
    assert [len(batch) for batch, _ in found] == [2, 2, 1]
