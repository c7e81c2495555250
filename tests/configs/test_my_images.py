"""configs/my_images.py: a folder of class folders is all that it asks for."""

import numpy as np
import pytest
from PIL import Image

from configs.my_images import CHANNELS, get_config
from qsdt_jax.models.classifier import SIZES
from tests.launch.tiny import launch


def test_sizes_are_those_of_the_networks():
    for name, channels in CHANNELS.items():
        assert get_config(name).model.channels == channels == SIZES[name.upper()]["channels"]
    with pytest.raises(ValueError, match=r"unknown size 'xl'; there is s, m, l"):
        get_config("xl")


@pytest.mark.slow
def test_it_trains_on_a_folder(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for label in ("cat", "dog"):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                size = rng.integers(20, 90, 2)
                Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"{i}.png")
    small = [
        "--config.model.channels=(8, 8, 8, 8)",
        "--config.model.depth=2",
        "--config.data.image_size=(32, 32)",
    ]
    few = ["--config.batch_size=8", "--config.epochs=1", "--config.optimizer.warmup_epochs=0"]
    where = [f"--config.data.path={tmp_path}/photos", f"--workdir={tmp_path}/run"]
    assert launch("--config=my_images", *small, *few, *where) == 0
    assert (tmp_path / "run" / "curves.png").is_file()
    assert "2 classes" in capsys.readouterr().err
