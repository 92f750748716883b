"""A small network from scratch that learns from a large universal model.

    universal-embedding train --config=uned_mini --workdir=runs/uned_mini
    universal-embedding train --config=distill_small --workdir=runs/small

Arguments: `method`, the distillation loss that is added to classification: distance_distribution
(arXiv 2003.03701), distance or rkd_distance (arXiv 1904.05068), or joint, which is classification
alone; `teacher`, the large model: a run directory or a SavedModel; `steps`; `dataset`.

The teacher embeds uncropped images at its own size, once; the student sees crops of 64 pixels. On
uned_mini (15,424 images of eight domains, not shipped), with the model of uned_mini.py as teacher,
mean of three seeds on the test split, merged R@1 / mMP@5: distance_distribution 0.601 / 0.457,
joint 0.576 / 0.427, teacher 0.823 / 0.707 (benchmarks/results/distillation.md).
"""

from universal_embedding.errors import UserError
from universal_embedding.training.config import (
    base_config,
    parse_argument,
    shrink,
    stage,
    teacher,
)

LOSS_WEIGHTS = {"joint": 0.0, "distance_distribution": 1.0, "distance": 10.0, "rkd_distance": 10.0}


def get_config(argument=""):
    arg = parse_argument(
        argument,
        method="distance_distribution",
        teacher="runs/uned_mini",
        steps=1500,
        dataset="uned_mini",
        runlocal=False,
    )
    if arg.method not in LOSS_WEIGHTS:
        raise UserError(f"method={arg.method}; it must be one of {', '.join(LOSS_WEIGHTS)}")
    config = base_config()
    config.data.dataset = arg.dataset
    config.data.batch_size = 128
    config.model.backbone = "small"
    config.model.image_size = 64
    config.augmentation.scale = (0.64, 1.0)
    config.optimizer.weight_decay.update(backbone=0.05, projection=0.05, head=0.05)
    config.optimizer.clip_norm = 1.0
    rates = {"backbone_lr": 2e-3, "projection_lr": 2e-3, "head_lr": 6e-3}
    warmup_steps = min(100, arg.steps)
    config.stages = (stage(name="all", steps=arg.steps, warmup_steps=warmup_steps, **rates),)
    if arg.method != "joint":
        config.losses[arg.method].weight = LOSS_WEIGHTS[arg.method]
        config.distillation.teachers = (teacher(arg.teacher),)
        config.distillation.cache_teachers = True
        config.losses.distance_distribution.teacher_temperature = 0.2
        config.losses.distance_distribution.student_temperature = 0.2
    return shrink(config) if arg.runlocal else config
