"""A property that all threads share."""

import pickle
import time
from concurrent.futures import ThreadPoolExecutor

from qsdt_jax.data.once import once


class Slow:
    made = 0

    @once
    def value(self) -> object:
        type(self).made += 1
        time.sleep(0.05)  # Time for the others to ask, too.
        return [self.made]


def test_threads_wait_for_the_one_that_makes_it():
    slow = Slow()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: slow.value, range(8)))
    assert Slow.made == 1
    assert all(value is found[0] for value in found)
    assert pickle.loads(pickle.dumps(Slow())).value == [2]
