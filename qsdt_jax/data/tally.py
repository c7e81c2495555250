"""Counts things that may be seen again and again, and says when it is time to tell of them."""

import threading


class Tally:
    """How many different things were seen: worth a line at the first, the tenth, the hundredth and so on.

    Each process counts those that it has seen since its start.
    """

    def __init__(self):
        self._seen: set[int] = set()
        self._lock = threading.Lock()

    def add(self, thing: int) -> int | None:
        """Their number where it is to be told, else None."""
        with self._lock:
            if thing in self._seen:
                return None
            self._seen.add(thing)
            number = len(self._seen)
        return number if number == 10 ** (len(str(number)) - 1) else None

    def __reduce__(self):
        return Tally, ()
