"""A kernel on images that are spread over devices: each device runs it on its own."""

from collections.abc import Callable

import jax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def by_images(name: str, run: Callable, rule: str) -> Callable:
    """`run`, which XLA cannot cut on its own: it would gather all images on every device.

    Args:
      name: of the kernel, by which profiles and `inspect` tell of it.
      run: takes and gives arrays, and treats each image alone.
      rule: dimensions of its arguments and results, "n l c, c o -> n l o". Arrays of n, the images, are
        spread as the first argument is; the others lie whole on every device.
    """
    arguments, results = ([term.split() for term in side.split(",")] for side in rule.split("->"))

    def partition(mesh: Mesh, given, _):
        spec = given[0].sharding.spec
        images = PartitionSpec(spec[0] if spec else None)

        def shardings(terms):
            return tuple(NamedSharding(mesh, images if "n" in t else PartitionSpec()) for t in terms)

        of_results = shardings(results)
        return mesh, run, of_results if len(results) > 1 else of_results[0], shardings(arguments)

    spread = custom_partitioning(run)
    names = dict.fromkeys(name for term in arguments for name in term if name != "n")
    spread.def_partition(partition=partition, sharding_rule=rule, need_replication_factors=tuple(names))
    return jax.named_call(spread, name=name)
