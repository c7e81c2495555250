"""What a network has beside its backbone, by name, for a network that starts from another one."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """Paths of modules, such as "seg_head" or "seg_head/classifier".

    Attributes:
      beside: modules at the top that are no part of the backbone; another network may have none of them.
      of_classes: layers whose outputs are classes.
    """

    beside: tuple[str, ...] = ()
    of_classes: tuple[str, ...] = ()


def parts_of(model: Any) -> Parts:
    """What a network says in its attribute PARTS; nothing for one that does not."""
    return getattr(model, "PARTS", Parts())
