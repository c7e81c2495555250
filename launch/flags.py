"""Parsing of flags, with one clear line for every mistake."""

import importlib.util
import itertools
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

import configs
from qsdt_jax import bounds
from qsdt_jax.command import COMMAND
from qsdt_jax.configuration.checked import check_config
from qsdt_jax.configuration.defaults import KEYS
from qsdt_jax.configuration.keys import config_keys
from qsdt_jax.errors import UserError
from qsdt_jax.files import expanded, place
from qsdt_jax.nearest import nearest
from qsdt_jax.workdir.older_config import renamed

flags.disclaim_key_flags()  # What is defined by a function of this file belongs to the verb that calls it.
# Flag that receives the arguments without a name, where a verb defines it; its help says how to write them.
POSITIONAL = "files"
# Arguments of a flag that several verbs define; whoever imports two of them would be refused otherwise.
DEFINED_OFTEN: dict[str, Any] = {"allow_override": True}


class _ConfigFile(flags.ArgumentParser):
    """The file that --config names, which runs once however many ask for what it gives.

    Attributes:
      name: as on the command line, "FILE.py" or "FILE.py:ARGUMENT"; "" before there is one.
      module: of the file.
    """

    syntactic_help = "a Python file with get_config()"

    def __init__(self):
        self.name, self.module, self._config = "", None, ConfigDict()

    def load(self, name: str) -> ConfigDict:
        """Runs the file; raises UserError where it cannot be run or gives no configuration."""
        path, _, argument = name.partition(":")
        try:
            spec = importlib.util.spec_from_file_location("checked_config", path)
            if spec is None or spec.loader is None:
                raise ImportError("not a Python file")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            config = module.get_config(argument) if argument else module.get_config()
        except Exception as error:  # Whatever a config file does wrong is the user's to mend.
            raise UserError(f"--config {path}: {type(error).__name__}: {error}") from None
        if not isinstance(config, ConfigDict):
            raise UserError(
                f"--config {path}: get_config() gave {type(config).__name__}, expected ConfigDict"
            )
        self.name, self.module, self._config = name, module, config
        return config

    def parse(self, argument: str) -> ConfigDict:
        """The configuration of the file, for the flag and its overrides."""
        config = self._config if argument == self.name else self.load(argument)
        return config.lock()


GIVEN_CONFIG = _ConfigFile()


def define_config():
    """Defines --config and its overrides; returns the flag's holder."""
    holder = config_flags.DEFINE_config_file(
        "config", None, "file of the configuration, e.g. configs/digits.py", **DEFINED_OFTEN
    )
    flags.FLAGS["config"].parser = GIVEN_CONFIG
    return holder


class _PathParser(flags.ArgumentParser):
    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        return expanded(argument)


def define_path(name: str, help: str) -> flags.FlagHolder[str | None]:
    """Defines a flag for a file or folder, which every verb may define as well; ~ in it is the home."""
    return flags.DEFINE(
        _PathParser(), name, None, help, serializer=flags.ArgumentSerializer(), **DEFINED_OFTEN
    )


class _SensorSizeParser(flags.ArgumentParser):
    syntactic_help = "HEIGHT,WIDTH in pixels"

    def parse(self, argument: "str | tuple[int, ...]") -> tuple[int, ...]:
        if not isinstance(argument, str):
            return argument
        parts = [part.strip() for part in argument.split(",")]
        if not all(part.isdecimal() for part in parts):
            raise UserError(f"--sensor_size={argument[:80]}: expected HEIGHT,WIDTH in pixels")
        if any(len(part) > 5 or int(part) > bounds.SIDE for part in parts):
            raise UserError(f"--sensor_size={argument[:80]}: expected at most {bounds.SIDE} pixels a side")
        return tuple(map(int, parts))


def define_sensor_size() -> flags.FlagHolder[tuple[int, ...]]:
    """Defines --sensor_size of recordings; () where it is not given."""
    help = "HEIGHT,WIDTH in pixels of the sensor of event files"
    return flags.DEFINE(
        _SensorSizeParser(), "sensor_size", (), help, serializer=flags.ArgumentSerializer(), **DEFINED_OFTEN
    )


def parse(verb: str, description: str, arguments: list[str]) -> bool:
    """Parses the flags that the verb's module has defined; False where only help was asked for.

    Raises:
      UserError: an unknown flag or config key (the nearest one is named), a value of the wrong type, a config
        file that is missing or cannot be run.
    """
    if "--help" in arguments or "-h" in arguments:
        print(f"{COMMAND} {verb}: {description.strip()}\n\nFlags:")
        for flag in _own_flags():
            text = flag.help if flag.name == POSITIONAL else f"--{flag.name}  {flag.help}"
            print(f"  {text}" + (f" (default: {flag.default})" if flag.default else ""))
        return False
    arguments = [_with_path(argument, before) for before, argument in itertools.pairwise(["", *arguments])]
    _check_config(arguments)
    flags.FLAGS.set_gnu_getopt(True)  # Flags may follow files.
    try:
        rest = flags.FLAGS([f"launch {verb}", *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        names = [flag.name for flag in _own_flags()]
        raise UserError(f"unknown flag --{error.flagname}{nearest(error.flagname, names)}") from None
    except flags.Error as error:
        raise UserError(str(error)) from None
    if "config" in flags.FLAGS and isinstance(config := flags.FLAGS["config"].value, ConfigDict):
        check_config(config)
    if rest and POSITIONAL not in flags.FLAGS:
        raise UserError(f"unexpected argument {rest[0]!r}; flags look like --name=value")
    if rest:
        flags.FLAGS[POSITIONAL].value = rest
    return True


def require_writable(flag: str, file: str | Path, read: Iterable[str | Path] = ()) -> None:
    """Refuses, before any work is done, a file that cannot be written.

    Args:
      flag: that names it.
      file: that is written.
      read: files that the command reads.

    Raises:
      UserError: it is one that is read, or a folder; its folder is missing, or the permission is.
    """
    file = Path(file)
    if place(file) in map(place, read):
        raise UserError(f"--{flag} {file} is a file that is read; expected another name")
    try:
        if file.exists():
            file.open("a").close()
        else:
            tempfile.TemporaryFile(dir=file.parent).close()
    except OSError as error:
        raise UserError(f"--{flag} {file} cannot be written: {error.strerror}") from None


def _own_flags() -> list[flags.Flag]:
    """The flags that modules of the command line define, and not the libraries'."""
    modules = flags.FLAGS.flags_by_module_dict()
    return [f for name, own in modules.items() if name.startswith("launch.") for f in own]


def _check_config(arguments: list[str]) -> None:
    """Refuses what would end in a traceback inside the flag parser, or in a file that nobody has checked."""
    for argument in arguments:
        if re.match(r"-(?:no)?config(?:[.=]|$)", argument):
            raise UserError(f"{argument} begins with one dash; a flag begins with two, -{argument}")
    if sum(a == "--config" or a.startswith("--config=") for a in arguments) > 1:
        raise UserError("--config is given more than once; expected one file")
    file = _value_of("config", arguments)
    if file is None:
        if any(a.startswith("--config.") for a in arguments):
            raise UserError("--config.KEY=VALUE needs --config FILE before it")
        return
    path = Path(file.split(":", 1)[0])
    if not path.is_file():
        others = [str(p) for p in sorted(path.parent.glob("*.py"))] if path.parent.is_dir() else []
        raise UserError(f"--config {path}: no such file{nearest(str(path), others)}")
    known, complete = config_keys(GIVEN_CONFIG.load(file)), list(KEYS)
    for key in known:
        if key not in complete:
            raise UserError(f"--config {path}: unknown config key {key!r}{_meant(key, complete)}")
    for key in complete:
        if key not in known:
            raise UserError(f"--config {path}: config key {key!r} is missing; begin with configs.base")
    for argument in arguments:
        match = re.match(r"--(?:no)?config\.([\w.]+)", argument)
        if match and match[1] not in known:
            raise UserError(f"unknown config key {match[1]!r}{_meant(match[1], known)}")


def _meant(key: str, known: list[str]) -> str:
    """What a message about an unknown key adds: what it is called now, or the nearest."""
    return renamed(key) or nearest(key, known)


def _with_path(argument: str, before: str) -> str:
    """The file of --config as it is meant: the library that reads it knows nothing of ~ and of our names."""
    flag = "--config="
    if before == "--config":
        return _config_file(argument)
    return flag + _config_file(argument.removeprefix(flag)) if argument.startswith(flag) else argument


def _config_file(name: str) -> str:
    """FILE.py[:ARGUMENT]; where there is no such file this project's, which "digits" names as well."""
    file, colon, argument = expanded(name).partition(":")
    given = Path(file)
    if not given.is_file():  # A folder of that name is no configuration.
        parts = given.parts[1:] if given.parts[:1] == ("configs",) else given.parts
        ours = Path(configs.__path__[0]).joinpath(*parts).with_suffix(".py")
        file = str(ours) if ours.is_file() else file
    return file + colon + argument


def _value_of(name: str, arguments: list[str]) -> str | None:
    for i, argument in enumerate(arguments):
        if argument == f"--{name}":
            return arguments[i + 1] if i + 1 < len(arguments) else None
        if argument.startswith(f"--{name}="):
            return argument.split("=", 1)[1]
    return None
