"""The name that somebody who mistyped one has meant."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """What a message about an unknown name adds: "; did you mean 'model.bits'?", or nothing.

    A name without what stands before its last dot is close to the whole one.
    """
    known = list(known)
    tails = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
    close = difflib.get_close_matches(word, known, 1, 0.6)
    if not close:
        close = [tails[t] for t in difflib.get_close_matches(word.rsplit(".", 1)[-1], tails, 1, 0.6)]
    return f"; did you mean {close[0]!r}?" if close else ""
