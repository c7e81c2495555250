"""A kernel on images that are spread over devices: each device runs it on its own."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike


def by_images(name: str, run: Callable, rule: str) -> Callable:
    """`run`, which XLA cannot cut on its own: it would gather all images on every device.

    Args:
      name: of the kernel, by which profiles and `inspect` tell of it.
      run: takes and gives arrays, and treats each image alone.
      rule: dimensions of its arguments and results, "n l c, c o -> n l o". Arrays of n, the images, are
        spread as the first argument is; the others lie whole on every device. All results have n.
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
    return _mappable(jax.named_call(spread, name=name), ["n" in term for term in arguments])


def _mappable(spread: Callable, of_images: list[bool]) -> Callable:
    """For `jax.vmap`, which has no rule for partitioned functions: the images of all go as one batch.

    Args:
      spread: takes and gives arrays; results begin with the images.
      of_images: which arguments do.
    """
    mappable = custom_vmap(spread)

    @mappable.def_vmap
    def of_many(size: int, mapped: list[bool], *arrays: jax.Array):
        kinds = list(zip(arrays, mapped, of_images, strict=True))
        if any(is_mapped and not images for _, is_mapped, images in kinds):  # Weights of their own: in turn.

            def one(chosen):
                own = iter(chosen)
                return mappable(*(next(own) if is_mapped else x for x, is_mapped, _ in kinds))

            found = lax.map(one, [x for x, is_mapped, _ in kinds if is_mapped])
        else:
            every = (
                x if m else jnp.broadcast_to(x, (size, *x.shape)) if images else x for x, m, images in kinds
            )
            joined = (x.reshape(-1, *x.shape[2:]) if i else x for x, i in zip(every, of_images, strict=True))
            found = jax.tree.map(lambda y: y.reshape(size, -1, *y.shape[1:]), mappable(*joined))
        return found, jax.tree.map(lambda _: True, found)

    return mappable


def result_of(x: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.ShapeDtypeStruct:
    """What a kernel gives for x: it differs among the devices of a `jax.shard_map` as x does."""
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(x).manual_axis_type)
