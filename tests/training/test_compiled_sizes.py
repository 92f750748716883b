"""XLA compiles the step at the image size of every stage of every recipe, for every loss."""

import numpy as np
import pytest

from tests.helpers.steps import take_steps, teachers_for
from tests.helpers.tiny_presets import make_tiny_model
from tests.training.test_recipes import CASES, load_recipe
from universal_embedding.training.config import stage
from universal_embedding.training.losses import LOSSES
from universal_embedding.training.strategy import mirrored

RATES = {"backbone_lr": 1e-3, "projection_lr": 1e-3, "head_lr": 1e-3}


def stage_sizes():
    """Sides of the images of all stages, in pixels."""
    configs = [load_recipe(*case) for case in CASES]
    return sorted({s.image_size or c.model.image_size for c in configs for s in c.stages})


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("name", [*LOSSES, "classification, sharded"])
def test_steps_compile_at_every_size(
    make_experiment, config, records, save_run, tmp_path, name, replicas
):
    make_tiny_model("ViTBackbone").save_to_preset(str(tmp_path / "vit"))
    sizes = stage_sizes()
    assert len(sizes) >= 5 and sizes[-1] >= 280
    config.model.backbone, config.model.image_size = str(tmp_path / "vit"), sizes[0]
    config.data.batch_size = 4
    if name == "compatible":
        config.losses.compatible.run = str(save_run("old").workdir)
    config.losses.classification.weight = 0.0
    name, _, option = name.partition(", ")
    config.losses[name].weight = 1.0
    config.head.sharded = option == "sharded"
    config.head.joint = name != "udon"
    config.distillation.teachers = teachers_for(name, records, tmp_path)
    stages = tuple(stage(steps=1, image_size=size, **RATES) for size in sizes)
    strategy = mirrored(replicas) if replicas > 1 else None
    experiment = make_experiment(strategy=strategy, stages=stages, jit_compile=True)
    for each in experiment.stages:
        sums, norms = take_steps(experiment, each, num_steps=1)
        assert np.isfinite(sums).all() and sums[0, -1].sum() == 4
        assert np.isfinite(norms).all() and norms[0] > 0
