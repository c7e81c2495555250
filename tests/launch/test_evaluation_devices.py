"""One evaluation for all commands: on several devices it gives what one device gives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.tiny import draw_variables, make_state, tiny_config, write_workdir

ROOT = Path(__file__).parents[2]
IMAGES = 53  # Neither a multiple of the batch nor of the devices.
SCRIPT = """
import json, sys
import jax, numpy as np
from launch.evaluate import evaluate
from launch.information import information
from qsdt_jax.loading.deployed import bundle_of
from qsdt_jax.assemble.split import Split
from qsdt_jax.loading.trained import load_trained
from qsdt_jax.deploy import agreement
from qsdt_jax.deploy.integer import IntegerArithmetic
from qsdt_jax.energy.rates import measure_activity
from qsdt_jax.tasks.accuracy import Accuracy

trained, images = load_trained(sys.argv[1]), int(sys.argv[2])
program = bundle_of(trained).program
def split():
    return Split(trained.config, "test", trained.classes, images)
activity = measure_activity(program, split().batches("measured"), Accuracy())
forms = {
    "training": agreement.training_form(trained.task.model, trained.variables),
    "integer": agreement.deployed_form(program, IntegerArithmetic()),
}
compared = agreement.compare(forms, split().batches("verified"))["integer"]
first = next(split().batches("measured"))["image"]
print(json.dumps({
    "devices": [jax.device_count(), len(first.sharding.device_set), len(first.addressable_shards)],
    "rows": sorted({shard.data.shape[0] for shard in first.addressable_shards}),
    "batch": first.shape[0],
    "eval": evaluate(trained, "test"),
    "histograms": {name: counts.tolist() for name, counts in activity.histograms.items()},
    "activity": [activity.images, dict(activity.metrics)],
    "compared": [compared.counts, compared.outputs["logits"], compared.different_counts,
                 compared.different_outputs],
    "spikes": information(trained, "test").spikes,
}))
"""


def measured(workdir: Path, devices: int) -> dict:
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, "-c", SCRIPT, str(workdir), str(IMAGES)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_all_commands_give_on_three_devices_what_they_give_on_one(tmp_path):
    """Every count and every score; the last batches are filled up."""
    config = tiny_config(**{"eval.batch_size": 50})
    workdir = write_workdir(tmp_path, config, {1: make_state(config, draw_variables(config, 1), None)})
    one, three = measured(workdir, 1), measured(workdir, 3)
    assert (one.pop("devices"), one.pop("batch"), one.pop("rows")) == ([1, 1, 1], 50, [50])
    assert (three.pop("devices"), three.pop("batch"), three.pop("rows")) == ([3, 3, 3], 51, [17])
    for found in (one, three):
        assert found["activity"][0] == IMAGES and found["compared"][2:] == [{}, {}]
    losses = [found["eval"].pop("loss") for found in (one, three)]
    losses += [found["activity"][1].pop("loss") for found in (one, three)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and losses[2] == pytest.approx(losses[3], rel=1e-6)
    assert 0 < one["eval"]["top1"] < 100 and len(one["histograms"]) > 20
    assert three == one
