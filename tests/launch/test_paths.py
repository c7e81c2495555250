"""Every flag and config key that is a path takes ~ for the home, at one place; nothing makes a folder "~"."""

import importlib
import shutil
from pathlib import Path

import pytest
from absl import flags

from launch.__main__ import VERBS
from launch.flags import _PathParser, _with_path
from qsdt_jax.errors import UserError
from qsdt_jax.files import expanded
from tests.launch.tiny import launch

ROOT = Path(__file__).parents[2]
DIGITS = f"--config={ROOT}/configs/digits.py"
# Flags whose help speaks of files, but which are none.
NO_PATHS = {"config", "files", "shards"}


@pytest.fixture
def home(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    yield home
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith("~")]


@pytest.mark.parametrize(
    ("path", "meant"), [("~", "H"), ("~/a b", "H/a b"), ("a/~/b", "a/~/b"), ("$X/a", "$X/a"), ("", "")]
)
def test_what_is_meant(home, path, meant):
    assert expanded(path) == meant.replace("H", str(home))


def test_a_home_that_is_not_known(home):
    with pytest.raises(UserError, match="~nobody_at_all/x: no home directory ~nobody_at_all is known"):
        expanded("~nobody_at_all/x")
    assert launch("eval", "--workdir=~nobody_at_all/x") == 2


def test_every_flag_of_a_file_or_folder_is_a_path():
    for module in VERBS.values():
        importlib.import_module(module)
    modules = flags.FLAGS.flags_by_module_dict()
    ours = {flag.name: flag for name, own in modules.items() if name.startswith("launch") for flag in own}
    paths = {name for name, flag in ours.items() if isinstance(flag.parser, _PathParser)}
    told = {
        name
        for name, flag in ours.items()
        if not isinstance(flag.parser, flags.BooleanParser)
        and {"file", "folder", "directory"} & set((flag.help or "").lower().replace(",", " ").split())
    }
    assert told - NO_PATHS <= paths
    assert {"workdir", "out", "source", "checkpoint", "class_names", "bundle", "sheet"} <= paths


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["eval", "--workdir=~/none"], "workdir H/none: no such directory"),
        (["eval", "--workdir", "~/none"], "workdir H/none: no such directory"),
        (["merge", "--workdir=~/none"], "workdir H/none: no such directory"),
        (["information", "--workdir=~/none"], "workdir H/none: no such directory"),
        (["information", "--workdir=w", "--png=~/none/x.png"], "--png H/none/x.png cannot be written"),
        (["eval", "--workdir=w", "--json=~/none/x"], "--json H/none/x cannot be written"),
        (["export", "--workdir=w", "--out=~/none/x"], "--out H/none/x cannot be written"),
        (["export", "--workdir=w", "--onnx=~/none/x"], "--onnx H/none/x cannot be written"),
        (["export", "--workdir=w", "--stablehlo=~/none/x"], "--stablehlo H/none/x cannot be written"),
        (["export", "--workdir=w", "--qonnx=~/none/x"], "--qonnx H/none/x cannot be written"),
        (["export", "--workdir=w", "--nir=~/none/x"], "--nir H/none/x cannot be written"),
        (["export", "--workdir=w", "--c=~/none/x"], "--c H/none/x cannot be written"),
        (["predict", "--bundle=~/x.qsdt", "a.png"], "bundle H/x.qsdt cannot be read"),
        (["predict", "--bundle=x", "a.png", "--sheet=~/x"], "--sheet H/x: expected a file name that ends"),
        (["energy", "--bundle=~/x.qsdt", DIGITS, "--out=~/made"], "bundle H/x.qsdt cannot be read"),
        (["bench", "--json=~/none/x"], "--json H/none/x cannot be written"),
        (["prepare", "imagefolder", "--source=~/none", "--out=~/o"], "--source H/none: no such folder"),
        (["prepare", "imagefolder", "--source=~", "--out=~/o"], "--out H/o lies in --source H"),
        (["import-torch", DIGITS, "--workdir=~/w", "--checkpoint=~/x.pth"], "H/x.pth: no such file"),
        (
            ["import-torch", DIGITS, "--workdir=w", "--checkpoint=x", "--class_names=~/n"],
            "--class_names H/n cannot be read",
        ),
        (["--config=~/none.py", "--workdir=w"], "--config H/none.py: no such file"),
        (["--config", "~/none.py", "--workdir=w"], "--config H/none.py: no such file"),
        (["ablate", DIGITS, "--workdir=~/w"], "is no study"),
        ([DIGITS, "--workdir=~/file/w"], "workdir H/file/w is a file; expected a directory"),
        (
            [DIGITS, "--workdir=w", "--config.data.source=folder", "--config.data.path=~/none"],
            "H/none",
        ),
        ([DIGITS, "--workdir=w", "--config.data.source=tfds", "--config.data.path=~/none"], "H/none"),
        (
            [DIGITS, "--workdir=w", "--config.distill.teacher=~/none", "--config.distill.kd=1.0"],
            "workdir H/none: no such directory",
        ),
        (
            [
                *(DIGITS, "--workdir=w", "--config.distill.teacher=caformer_s18:~/none.pth"),
                *("--config.distill.kd=1.0", "--config.data.source=fake", "--config.data.channels=3"),
                *("--config.data.mean=(0.5,)", "--config.data.std=(0.5,)"),
            ],
            "H/none.pth: no such file",
        ),
    ],
)
def test_every_verb(home, capsys, arguments, told):
    (home / "file").write_text("")
    assert launch(*arguments) == 2
    assert told in capsys.readouterr().err.replace(str(home), "H")


def test_a_starting_point_in_the_home(home, capsys):
    words = [f"--config={ROOT}/tests/configs/tiny.py", "--workdir=~/w", "--config.start_from=~/none"]
    assert launch(*words) == 2
    assert f"config.start_from=~/none: workdir {home}/none: no such directory" in capsys.readouterr().err


def test_a_config_and_a_picture_in_the_home(home, capsys):
    shutil.copy(ROOT / "tests" / "configs" / "tiny.py", home / "mine.py")
    assert launch("inspect", "--config=~/mine.py", "--config.model.levels=3") == 0
    assert "D = 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    [
        "digits",
        "digits.py",
        "configs/digits.py",
        "configs/digits",
        "ablations/components",
        "imagenet_s:published",
    ],
)
def test_configs_of_this_project_are_known_by_their_names_anywhere(name, tmp_path, monkeypatch):
    """Where there is no such file; a file of the user's is taken as it is."""
    monkeypatch.chdir(tmp_path)
    file, colon, argument = _with_path(f"--config={name}", "").removeprefix("--config=").partition(":")
    assert Path(file).is_relative_to(ROOT / "configs") and Path(file).is_file()
    assert colon + argument == name.removeprefix(name.partition(":")[0])
    (tmp_path / "digits").mkdir()  # Of data, for one.
    assert _with_path("digits", "--config") == str(ROOT / "configs" / "digits.py")
    (tmp_path / "digits").rmdir()
    own = tmp_path / name.partition(":")[0]
    own.parent.mkdir(exist_ok=True)
    own.write_text("")
    assert _with_path(name, "--config") == name
