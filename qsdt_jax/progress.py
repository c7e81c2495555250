"""What long work tells the person in front of it: a bar on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterator

from tqdm import tqdm

LINE_SECONDS = 10  # Time between plain lines.


def tell(text: str) -> None:
    """Prints to stderr; where nothing can be written there, the text is lost and the work goes on."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class Progress:
    """Progress through the steps of a run, with images/s and the time left.

    Rates are those of the steps alone; the time left is that of all that happens between them as well. A
    terminal that is gone, or a log on a full disk, ends no work: what cannot be printed is lost.

    Args:
      total: steps of the whole run.
      done: steps finished before this start.
      images_per_step: for the rate.
      step: what a step is called.
      images: what an image is called, in the plural.
      shown: whether anything is printed; not by a process beside the one that does.
    """

    def __init__(
        self,
        total: int,
        done: int,
        images_per_step: int,
        *,
        step: str = "step",
        images: str = "images",
        shown: bool = True,
    ):
        self._shown = shown
        self._total, self._images = total, images_per_step
        self._step_name, self._images_name = step, images
        self._first, self._done, self._lap_done = done, done, done
        self._start = self._lap_start = time.monotonic()
        self._aside = 0.0  # Seconds.
        self._last_line = -LINE_SECONDS
        self._bar = None
        if shown and sys.stderr.isatty():
            form = "{percentage:3.0f}% {bar:24} {n_fmt}/{total_fmt} {elapsed}<{remaining} {postfix}"
            # Smoothed, the time left would jump with every pause.
            with contextlib.suppress(OSError):
                self._bar = tqdm(total=total, initial=done, bar_format=form, dynamic_ncols=True, smoothing=0)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """For work between steps, like an evaluation, whose time does not count for rates."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._aside += time.monotonic() - start

    def lap(self) -> float:
        """Images/s of the steps finished since the last call, or since the start, without time aside."""
        now = self._time_of_steps()
        rate = self._rate(self._lap_done, now - self._lap_start)
        self._lap_start, self._lap_done = now, self._done
        return rate

    def _time_of_steps(self) -> float:
        return time.monotonic() - self._aside

    def _rate(self, since: int, seconds: float) -> float:
        return (self._done - since) * self._images / seconds if seconds > 0 else 0.0

    def update(self, step: int, text: str) -> None:
        """Shows that `step` is finished, with a short text of metrics."""
        self._done = step
        now = time.monotonic()
        rate = self._rate(self._first, self._time_of_steps() - self._start)
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.set_postfix_str(f"{rate:,.0f} {self._images_name}/s, {text}", refresh=False)
                self._bar.update(step - self._bar.n)
        elif now - self._last_line >= LINE_SECONDS or step == self._total:
            self._last_line = now
            left = (self._total - step) * (now - self._start) / max(1, step - self._first)
            self.say(
                f"{self._step_name} {step}/{self._total}  {rate:,.0f} {self._images_name}/s  "
                f"{tqdm.format_interval(left)} left  {text}"
            )

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.write(text, file=sys.stderr)
        elif self._shown:
            tell(text)

    def close(self) -> None:
        """Leaves the terminal in order."""
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.close()
