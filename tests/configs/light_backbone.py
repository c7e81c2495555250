"""A backbone that compiles in no time, for tests of what is the same for any backbone."""

import dataclasses

import jax

from qsdt_jax.layers.downsample import Downsample
from qsdt_jax.layers.transformer_block import DropPath
from qsdt_jax.models import Backbone
from qsdt_jax.models.backbone import Stage


class LightBackbone(Backbone):
    """The convolutions between the blocks, without the blocks; drop path is on the last of them."""

    def setup(self):
        c1, c2, c3, c4 = self.channels
        self.downsample1_1 = Downsample(c1 // 2, self.numerics, kernel_size=3, spiking=False)
        self.downsample1_2 = Downsample(c1, self.numerics)
        self.downsample2 = Downsample(c2, self.numerics)
        self.downsample3 = Downsample(c3, self.numerics)
        self.downsample4 = Downsample(c4, self.numerics, stride=1)
        self.dropped = DropPath(self.drop_path)

    def features(
        self, images: jax.Array, train: bool = False, sizes: jax.Array | None = None
    ) -> dict[Stage, jax.Array]:
        """See `Backbone.features`; there are no tokens."""
        stem = self.downsample1_1(self.frames(images), train)
        stage1 = self.downsample1_2(stem, train)
        stage2 = self.downsample2(stage1, train)
        stage3 = self.downsample3(stage2, train)
        stage4 = self.dropped(self.downsample4(stage3, train), train)
        return {"stem": stem, "stage1": stage1, "stage2": stage2, "stage3": stage3, "stage4": stage4}


def lightened(task):
    """The task with this backbone, whose fields are those of its own."""
    backbone = task.model.backbone
    fields = {
        field.name: getattr(backbone, field.name)
        for field in dataclasses.fields(backbone)
        if field.name not in ("parent", "name")
    }
    return dataclasses.replace(task, model=task.model.clone(backbone=LightBackbone(**fields)))
