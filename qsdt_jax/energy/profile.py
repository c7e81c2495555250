"""Hardware profiles: what operations, memory and routing cost on one machine, as a small data file.

A profile is a TOML or a JSON file with these entries and no others, all of them (see `profiles/`):

    name          of the machine, in a few words
    sources       list of lines: where the numbers are from
    note          text: what they leave out
    [operations]  pJ for one: float_mac, float_add, quantized_mac (of the quantised ANN), quantized_add (a
                  spike adds a weight of 1 to 8 bits)
    [memory]      pJ for 32 bits: sram, dram
    [routing]     pJ for one spike on its way to the layers that it enters: spike + per_rate * firing rate,
                  of the neurons that it comes from, for networks on a chip that cost more where more passes

Counted at these prices is what the convention `with memory` counts (`conventions`), and routing beside it.
"""

import dataclasses
import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qsdt_jax.energy.conventions import Prices
from qsdt_jax.errors import UserError
from qsdt_jax.nearest import nearest

FOLDER = Path(__file__).parent / "profiles"
TABLES = {
    "operations": ("float_mac", "float_add", "quantized_mac", "quantized_add"),
    "memory": ("sram", "dram"),
    "routing": ("spike", "per_rate"),
}
READERS = {".toml": tomllib.loads, ".json": json.loads}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Routing:
    """Picojoule for one spike, see the table in this file."""

    spike: float
    per_rate: float

    def of_spikes(self, spikes: float, rate: float) -> float:
        """Picojoule of a number of spikes whose neurons have a firing rate, 0..1."""
        return spikes * (self.spike + self.per_rate * rate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """Prices of one machine, see the table in this file."""

    name: str
    sources: tuple[str, ...]
    note: str
    prices: Prices
    routing: Routing


def profile_names() -> list[str]:
    """The profiles that come with the package."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def load_profile(name: str) -> Profile:
    """A profile of the package by its name, or one from a file that ends in .toml or .json.

    Raises:
      UserError: there is none, it cannot be read, or an entry is missing, unknown, no text, or no number from
        0 on.
    """
    file = Path(name)
    if file.suffix not in READERS:
        known = profile_names()
        if name not in known:
            raise UserError(
                f"expected a hardware profile, {' or '.join(known)}, or a file that ends in .toml or .json; "
                f"found {name!r}{nearest(name, known)}"
            )
        file = FOLDER / f"{name}.toml"
    try:
        content = READERS[file.suffix](file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:  # Of both formats, and of text that is no UTF-8.
        reason = str(error).partition("\n")[0]
        raise UserError(f"{file}: expected {file.suffix[1:].upper()}; {reason}") from None
    return _profile(file, content)


def _profile(file: Path, content: Any) -> Profile:
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a table of entries, found {type(content).__name__}")
    known = ["name", "sources", "note"]
    known += [f"{table}.{key}" for table, keys in TABLES.items() for key in keys]
    entries = _flat(file, content)
    for key in entries:
        if key not in known:
            raise UserError(f"{file}: unknown entry {key!r}{nearest(key, known)}")
    for key in known:
        if key not in entries:
            raise UserError(f"{file}: entry {key!r} is missing")
    for key in ("name", "note"):
        if not isinstance(entries[key], str) or not entries[key].strip():
            raise UserError(f"{file}: expected text as {key!r}, found {entries[key]!r}")
    sources = entries["sources"]
    if not isinstance(sources, list) or not sources or not all(isinstance(line, str) for line in sources):
        raise UserError(f"{file}: expected a list of lines as 'sources', found {sources!r}")
    numbers = {
        table: {key: _number(file, f"{table}.{key}", entries[f"{table}.{key}"]) for key in keys}
        for table, keys in TABLES.items()
    }
    return Profile(
        name=entries["name"],
        sources=tuple(sources),
        note=entries["note"].strip(),
        prices=Prices(**numbers["operations"], **numbers["memory"]),
        routing=Routing(**numbers["routing"]),
    )


def _flat(file: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a file; those of its tables are called "table.key"."""
    entries: dict[str, Any] = {}
    for key, value in content.items():
        if key in TABLES:
            if not isinstance(value, dict):
                raise UserError(f"{file}: expected a table as {key!r}, found {value!r}")
            entries |= {f"{key}.{inner}": number for inner, number in value.items()}
        else:
            entries[key] = value
    return entries


def _number(file: Path, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise UserError(f"{file}: expected a number of picojoule from 0 on as {key!r}, found {value!r}")
    return float(value)
