"""Counts of different things, told at powers of ten."""

import pickle

from qsdt_jax.data.tally import Tally


def test_the_first_the_tenth_and_the_hundredth_are_told():
    tally = Tally()
    told = {thing: number for thing in [*range(150), *range(150)] if (number := tally.add(thing))}
    assert told == {0: 1, 9: 10, 99: 100}


def test_another_process_counts_anew():
    tally = Tally()
    tally.add(3)
    assert pickle.loads(pickle.dumps(tally)).add(3) == 1
