"""The COCO recipes: what the variant changes, and two steps of each."""

import json

import numpy as np
import pytest

from configs import coco_l, coco_s
from qsdt_jax.assemble.build import build_run
from qsdt_jax.train.loop import train
from qsdt_jax.workdir.metrics import read_metrics
from qsdt_jax.workdir.workdir import config_differences

# Everything that makes a step large; how it is computed stays.
REDUCED = {
    "steps": 2,
    "batch_size": 6,
    "model.channels": (16, 16, 32, 32),
    "model.depth": 2,
    "model.fpn_channels": 16,
    "model.box_features": 32,
    "data.source": "fake",
    "data.fake_images": 12,
    "data.image_size": (64, 112),
    "data.short_side": 64,
    "data.long_side": 112,
    "data.short_sides": (48, 64),
    "data.crop_short_sides": (48, 64),
    "data.crop_sides": (32, 64),
    "data.buckets": ((112, 112),),
    "data.workers": 0,
    "data.objects": 8,
    "detection.rpn_samples": 32,
    "detection.roi_samples": 32,
    "detection.train_proposals": (64, 32),
    "detection.test_proposals": (32, 32),
    "detection.detections": 8,
    "log.every_steps": 1,
}
LOSSES = ("loss_rpn_score", "loss_rpn_box", "loss_class", "loss_box", "loss_mask")


@pytest.mark.parametrize("size", [coco_s, coco_l])
def test_published_code_differs_in_these_values(size):
    paper = json.loads(json.dumps(size.get_config().to_dict()))
    rates = [256 * rate / 12 for rate in (1e-4, 2e-4)]
    assert config_differences(paper, size.get_config("published").to_dict()) == [
        "model.attention_tokens was 196, is 0",
        "model.freeze_statistics was True, is False",
        "model.geometry was 'true', is 'published'",
        "model.neuron_input_gain was 1.0, is 0.25",
        "model.norm_group was 0, is 3",
        "optimizer.decay_vectors was False, is True",
        f"optimizer.learning_rate was {rates[0]}, is {rates[1]}",
        "optimizer.schedule was 'polynomial', is 'multistep'",
    ]
    with pytest.raises(ValueError, match="unknown variant 'code'"):
        size.get_config("code")


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["", "published"])
def test_two_steps_on_fake_data(variant, tmp_path):
    """And an evaluation; that no statistics move where they are frozen is tested with the layer."""
    config = coco_s.get_config(variant).lock()
    config.update_from_flattened_dict(REDUCED)
    train(build_run(config), tmp_path / "run")
    lines = read_metrics(tmp_path / "run")
    losses = np.array([[line[f"train/{name}"] for name in LOSSES] for line in lines[:2]])
    assert len(losses) == 2 and np.isfinite(losses).all() and (losses.max(0) > 0).all()
    assert all(f"eval/{name}" in lines[-1] for name in ("bbox_map", "segm_map"))
