"""Stopping on request: SIGTERM (clusters) and SIGINT (Ctrl-C) at any moment of a run.

The signal only sets a flag; the loop looks at it between steps, where the state is whole, saves and leaves.
Long waits (compilation, input) run in a thread that the loop abandons, because Python delivers no signal
while the main thread is inside a library. Long work in Python (tracing) stays in the main thread and is
broken off: left behind in a thread, it would take turns with the saving and make that many times slower.
"""

import contextlib
import gc
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

# The command line looks here before it knows whether it needs JAX.
if TYPE_CHECKING:
    import jax

T = TypeVar("T")
POLL_SECONDS = 0.1
STOPPED = 128 + signal.SIGINT  # Exit status, as shells have it.
OTHERS_SIGNAL = "a signal to another process"


class Preempted(Exception):
    """The run was asked to stop while it waited for something."""


class Preemption:
    """Context manager that turns SIGTERM and SIGINT into a flag; a second SIGINT stops at once.

    In a run of several processes the flag is up where all of them know of a signal to any of them, which they
    find out when they `meet`: so all stop at the same step.

    Args:
      vote: tells at each call whether a hand was up in any process at the call before; None for one process.
      agree: `Peers.agree`, by which the processes wait together for what takes each of them long; None where
        this one waits for itself.
    """

    def __init__(
        self,
        vote: Callable[[bool], bool] | None = None,
        agree: Callable[[bool, bool], bool | None] | None = None,
    ):
        self._vote, self._agree, self._agreed = vote, agree, False
        self.signal_name: str | None = None
        self._breaks_off = False
        self._previous = {}

    def __enter__(self) -> "Preemption":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def requested(self) -> bool:
        """Whether a signal has arrived."""
        return self._agreed if self._vote else self.signal_name is not None

    def meet(self) -> None:
        """Hears of signals to other processes; all of them have to call it equally often."""
        if self._vote and not self._agreed:
            self._agreed = self._vote(self.signal_name is not None)

    def check(self) -> None:
        """Raises Preempted where a signal has arrived."""
        if self.requested:
            raise _preempted(self.signal_name or OTHERS_SIGNAL)

    def wait_for(self, work: Callable[[], T]) -> T:
        """The result of `work`, run in a thread; of several processes once all have theirs.

        Raises:
          Preempted: a signal came first, to any of them; the thread is left behind.
        """
        results = Background(iter([work]), lambda task: task(), ahead=1)
        return self.next_of(results) if self._agree is None else self._together(results, self._agree)

    def compile(self, function: "jax.stages.Wrapped", *args: Any) -> "jax.stages.Compiled":
        """A jitted function compiled for these arguments.

        Raises:
          Preempted: a signal came first, to any process; all have to call it equally often.
        """
        # Garbage collection calls back into libraries, where an exception is told and ignored.
        gc.disable()
        self._breaks_off = self._vote is None or self._agree is not None
        try:
            if self._breaks_off and self.signal_name is not None:
                raise _preempted(self.signal_name)
            compile_: Any = function.lower(*args).compile
        except Exception as error:
            # A library may have caught the exception of a signal and stumbled over what is missing then.
            if not self._breaks_off or self.signal_name is None:
                raise
            if self._agree is None:
                raise _preempted(self.signal_name) from error
            compile_ = threading.Event().wait  # Never ready, this process makes all of them stop.
        finally:
            self._breaks_off = False
            gc.enable()
        return self.wait_for(compile_)

    def next_of(self, results: "Background[T]") -> T:
        """The next result of a `Background`.

        Raises:
          Preempted: a signal came first.
          Exception: whatever the thread raised; StopIteration at the end.
        """
        while True:
            self.check()
            with contextlib.suppress(queue.Empty):
                return results.get(timeout=POLL_SECONDS)

    def iterate(self, results: "Background[T]") -> Iterator[T]:
        """All results of a `Background`; raises Preempted where a signal comes first."""
        try:
            while True:
                try:
                    result = self.next_of(results)
                except StopIteration:
                    return
                yield result
        finally:
            results.close()

    def _together(self, results: "Background[T]", agree: Callable[[bool, bool], bool | None]) -> T:
        ready = []
        while True:
            if not ready:
                with contextlib.suppress(queue.Empty):
                    ready.append(results.get(timeout=POLL_SECONDS))
            go = agree(bool(ready), self.signal_name is not None)
            if go:
                return ready[0]
            if go is not None:
                self._agreed = True
                self.check()

    def _handle(self, number, frame) -> None:
        name = signal.Signals(number).name
        if self.signal_name and number == signal.SIGINT:
            # An exception would wait for the save, or get lost in it. A step that is half written is no step.
            os.write(2, b"SIGINT again: stopped at once; the same command goes on from the last checkpoint\n")
            os._exit(STOPPED)
        self.signal_name = name
        with contextlib.suppress(OSError):  # A terminal that is gone.
            print(f"\n{name}: saving and stopping (Ctrl-C again stops at once)", file=sys.stderr)
        if self._breaks_off:
            raise _preempted(name)


def _preempted(signal_name: str) -> Preempted:
    return Preempted(f"{signal_name}: stopped; the same command goes on from there")


class Background(Generic[T]):
    """Runs work(item) for each item in a thread that stays at most `ahead` results in front."""

    def __init__(self, items: Iterator, work: Callable[..., T], *, ahead: int):
        self._results: queue.Queue = queue.Queue(maxsize=ahead)
        self._closed = threading.Event()
        threading.Thread(target=self._run, args=(items, work), daemon=True).start()

    def get(self, timeout: float | None = None) -> T:
        """The next result.

        Raises:
          queue.Empty: none came in `timeout` seconds.
          Exception: what the thread raised; StopIteration after the last item.
        """
        result, error = self._results.get(timeout=timeout)
        if error is not None:
            self._results.put((None, error))  # Whoever asks again gets the same answer.
            raise error
        return result

    def close(self) -> None:
        """Lets the thread end."""
        self._closed.set()

    def _run(self, items: Iterator, work: Callable[..., T]) -> None:
        try:
            for item in items:
                if not self._put((work(item), None)):
                    return
            self._put((None, StopIteration()))
        except BaseException as error:  # The thread's error belongs to whoever waits.
            self._put((None, error))

    def _put(self, result: tuple[T | None, BaseException | None]) -> bool:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self._results.put(result, timeout=POLL_SECONDS)
                return True
        return False
