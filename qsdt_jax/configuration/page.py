"""Every key of a configuration as a page.

`python -m qsdt_jax.configuration.page > docs/configuration.md` makes it.
"""

from qsdt_jax.configuration.defaults import KEYS
from qsdt_jax.configuration.key import Key

HEAD = """# Every key of a configuration

Made from `qsdt_jax/configuration/defaults.py` by `python -m qsdt_jax.configuration.page`. Any key can be
overridden on the command line: `--config.model.bits=2`. Where nothing is said of the values, the network
checks them, or what is allowed depends on other keys.

| key | default | what it is | values |
|---|---|---|---|
"""


def configuration_page() -> str:
    """The page in Markdown."""
    return HEAD + "".join(map(_row, KEYS, KEYS.values()))


def _row(name: str, key: Key) -> str:
    default = "none" if key.default is None else f"`{key.default!r}`"
    allowed = key.rule.allowed if key.rule else ""
    if isinstance(key.limit, int):
        allowed += f"{', ' if allowed else ''}at most {key.limit:,}"
    return f"| `{name}` | {default} | {key.meaning} | {allowed} |\n"


if __name__ == "__main__":
    print(configuration_page(), end="")
