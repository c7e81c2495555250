"""Explains what a classifier of a workdir or a bundle does with one image."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from qsdt_jax.answers.classes import Prediction
from qsdt_jax.data.inputs import to_inputs
from qsdt_jax.deploy.detector import FoldedDetector
from qsdt_jax.deploy.integer import IntegerArithmetic
from qsdt_jax.deploy.program import Program
from qsdt_jax.energy.counted import counted, neurons_of
from qsdt_jax.energy.unfolded import Unfolded, is_spiking
from qsdt_jax.errors import UserError
from qsdt_jax.explain.attention import received_in_blocks, received_in_dssa
from qsdt_jax.explain.explanation import Explanation
from qsdt_jax.explain.gradients import grad_cam, gradients, saliency
from qsdt_jax.explain.rasters import rasters
from qsdt_jax.loading.deployed import Deployed
from qsdt_jax.loading.trained import Trained
from qsdt_jax.models import SpikingResformer


def explainer(network: Trained | Deployed) -> Callable[[Prediction], Explanation]:
    """A function that explains a network's predictions.

    Raises:
      UserError: it is no classifier, or it has no spikes or another attention than that of spikes.
    """
    program = _program(network)
    normalization, names = network.preprocess.normalization, neurons_of(program)
    model = program.model if isinstance(program, Unfolded) else None
    levels, timesteps = program.neuron.levels, program.neuron.timesteps

    def explain(prediction: Prediction) -> Explanation:
        image = to_inputs({"image": prediction.view[None]}, normalization)["image"][0]
        found = jax.device_get(_counts(program, image))
        counts = {name: found[name].astype(np.min_scalar_type(levels)) for name in names}
        if isinstance(model, SpikingResformer):
            attention = received_in_dssa(counts, model.patches)
        else:
            attention = received_in_blocks(counts)
        explained = Explanation(
            prediction=prediction,
            attention=attention,
            dual=isinstance(model, SpikingResformer),
            rasters=rasters(counts, levels),
            levels=levels,
            timesteps=timesteps,
        )
        if not isinstance(program, Unfolded):
            return explained
        slopes = jax.device_get(gradients(program.model, program.variables, image, int(prediction.order[0])))
        cam = grad_cam(slopes.features, slopes.of_features)
        return dataclasses.replace(explained, saliency=saliency(slopes.image), grad_cam=cam)

    return explain


def _program(network: Trained | Deployed) -> Program | Unfolded:
    """What counts spikes."""
    expected = "expected a classifier with spiking neurons and attention of spikes"
    if isinstance(network, Deployed):
        program = network.bundle.program
        if isinstance(program, FoldedDetector) or network.of_pixels:
            raise UserError(f"{network.title} is the bundle of a {network.answering.network}; {expected}")
        return program
    model = network.task.model
    if not is_spiking(model):
        raise UserError(
            f"{network.title} cannot be explained, being another {type(model).__name__}; {expected}"
        )
    return Unfolded(model, network.variables, network.preprocess.size)


@jax.jit
def _counts(program: Program | Unfolded, image: jax.Array) -> dict[str, jax.Array]:
    """The counts (T, ...) of each neuron for one image."""
    found = counted(program, None, IntegerArithmetic(), {"image": image[None]}).counts
    return {name: counts.counts for name, counts in found.items()}
