"""The working directory of a run: who may write to it, and for which configuration."""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qsdt_jax.errors import UserError
from qsdt_jax.files import locked, read_json, write_atomically

CONFIG_FILE = "config.json"
DATA_FILE = "data.json"
LOCK_FILE = ".lock"
# Sections and keys that change nothing about the numbers of a run, but their rounding: a resumed run may
# change them. So may the place of the data, of which classes and number are compared.
FREE_SECTIONS = ("log", "checkpoint", "parallel", "profile")
FREE_KEYS = ("data.path", "data.workers", "data.corrupt_limit", "eval.batch_size")


class Workdir:
    """Exclusive use of a working directory; a context manager that holds a lock.

    With `writes` false it is that of another process of the same run, which locks and writes nothing.

    Raises (on entering):
      UserError: the path is a file, cannot be written, or is used by another run.
    """

    def __init__(self, path: str | os.PathLike[str], *, writes: bool = True):
        self.path, self._writes = Path(path), writes
        self._lock = contextlib.ExitStack()

    def __enter__(self) -> "Workdir":
        if not self._writes:
            return self
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.enter_context(locked(self.path / LOCK_FILE))
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"workdir {self.path} is a file; expected a directory") from None
        except BlockingIOError:
            raise UserError(f"workdir {self.path} is in use by another run") from None
        except OSError as error:
            raise UserError(f"workdir {self.path} cannot be written: {error.strerror}") from None
        return self

    def __exit__(self, *exception) -> None:
        self._lock.close()

    def claim(
        self,
        config: Mapping[str, Any],
        class_names: Sequence[str] | None,
        training_images: int | None,
        *,
        begun: bool,
    ) -> None:
        """Binds the directory to a configuration and data, or checks that they are those of the run so far.

        Args:
          config: as plain data.
          class_names: in the order of the network's outputs; None where they are not known.
          training_images: number of them; None where nothing was trained here yet.
          begun: whether there is a checkpoint; without one nothing is lost by another configuration.

        Raises:
          UserError: the directory belongs to a run of another configuration, or of other data.
        """
        if not self._writes:
            return
        file = self.path / CONFIG_FILE
        if begun and file.exists():
            differences = config_differences(read_config(self.path), config)
            if differences:
                raise UserError(
                    f"workdir {self.path} belongs to a run of another configuration: "
                    + "; ".join(differences)
                )
            self._require_same_data(class_names, training_images)
        write_atomically(file, json.dumps(config, indent=2, sort_keys=True) + "\n")
        data = {"training_images": training_images, "class_names": class_names}
        write_atomically(self.path / DATA_FILE, json.dumps(data, indent=1) + "\n")

    def _require_same_data(self, class_names: Sequence[str] | None, training_images: int | None) -> None:
        names, images = read_data(self.path)
        if images is None:  # An import knows the network, not the data.
            return
        if images != training_images:
            raise UserError(
                f"workdir {self.path} belongs to a run on other data: of {images:,} training images, "
                f"these are {training_images:,}"
            )
        for label, (before, now) in enumerate(zip(names or (), class_names or (), strict=False)):
            if before != now:
                raise UserError(
                    f"workdir {self.path} belongs to a run on other data: class {label} was {before!r}, "
                    f"is {now!r}"
                )


def read_config(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """The configuration stored in a workdir.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    file = Path(workdir) / CONFIG_FILE
    try:
        config = read_json(file)
    except FileNotFoundError:
        raise UserError(f"{workdir} is not the workdir of a run: it has no {CONFIG_FILE}") from None
    if not isinstance(config, dict):
        raise UserError(f"{file}: expected the keys of a configuration, found {type(config).__name__}")
    return config


def read_data(workdir: str | os.PathLike[str]) -> tuple[tuple[str, ...] | None, int | None]:
    """Class names and number of training images of a workdir's run, None for what is not known.

    Raises:
      UserError: they cannot be read.
    """
    file = Path(workdir) / DATA_FILE
    try:
        data = read_json(file)
        names, images = data["class_names"], data["training_images"]
    except FileNotFoundError:
        return None, None
    except (KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read: {error!r}") from None
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UserError(f"{file}: expected a list of class names")
    if images is not None and type(images) is not int:
        raise UserError(f"{file}: expected a whole number of training images, found {images!r}")
    return None if names is None else tuple(names), images


def config_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line for each key that differs, e.g. "model.bits was 4, is 2"."""
    return [
        f"{key} was {before!r}, is {after!r}"
        for key, before, after in changes(old, new)
        if key not in FREE_KEYS and key.split(".")[0] not in FREE_SECTIONS
    ]


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) of each key of nested plain data that differs, in order."""
    before, after = _flatten(old), _flatten(new)
    # Through JSON, so that a tuple equals the list it was stored as.
    after = json.loads(json.dumps(after))
    missing = "(absent)"
    values = (
        (key, before.get(key, missing), after.get(key, missing)) for key in before.keys() | after.keys()
    )
    return sorted((key, one, other) for key, one, other in values if one != other)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
