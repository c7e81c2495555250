"""Timing of several ways to do the same, in turn: a change of the machine's pace meets all of them."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

TURN_SECONDS = 0.25  # What a turn takes at least: a wait for the device costs little of that.
# Threads of a pool spin for a moment after their work, which would be taken from the next way's cores.
PAUSE_SECONDS = 0.02


@dataclasses.dataclass(frozen=True)
class Way:
    """One of them.

    Attributes:
      step: does it once; a device may still be at it.
      wait: until what `step` has given is there.
    """

    step: Callable[[], Any]
    wait: Callable[[Any], Any]

    def seconds(self, count: int) -> float:
        """Of one of so many steps."""
        start, last = time.perf_counter(), None
        for _ in range(count):
            last = self.step()
        self.wait(last)
        return (time.perf_counter() - start) / count


def seconds_in_turn(ways: Mapping[str, Way], rounds: int) -> dict[str, list[float]]:
    """Seconds a step, of each way in each round; every second round goes through them backwards.

    All ways have been warmed up.
    """
    counts = {name: max(1, math.ceil(TURN_SECONDS / way.seconds(1))) for name, way in ways.items()}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name in ways if turn % 2 == 0 else reversed(list(ways)):
            time.sleep(PAUSE_SECONDS)
            found[name].append(ways[name].seconds(counts[name]))
    return found


def ratio(seconds: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """How many times as long the other takes, round by round: median, quartiles, least and most."""
    ratios = sorted(other / own for own, other in zip(seconds, others, strict=True))
    low, _, high = statistics.quantiles(ratios, method="inclusive") if len(ratios) > 1 else ratios * 3
    return {
        "median": statistics.median(ratios),
        "lower_quartile": low,
        "upper_quartile": high,
        "min": ratios[0],
        "max": ratios[-1],
    }
