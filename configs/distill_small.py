"""A small network from scratch that learns from a big universal model.

    python tools/train.py --config=configs/uned_mini.py --workdir=runs/uned_mini
    python tools/train.py --config=configs/distill_small.py:method=feng --workdir=runs/small

The argument is a list of name=value: `method` is feng, absolute or relational, added to the
classification of all domains' classes, or joint, which is classification alone; `teacher` is the
big model, a work directory or a SavedModel. It embeds whole pictures at its own size, once; the
student sees crops of 64 pixels. What it gains is in benchmarks/results/distillation.md.
"""

from universal_embedding.errors import UserError
from universal_embedding.training.config import base_config, read_argument, stage

WEIGHTS = {"joint": 0.0, "feng": 1.0, "absolute": 10.0, "relational": 10.0}


def get_config(argument=""):
    given = read_argument(
        argument, method="feng", teacher="runs/uned_mini", steps="1500", dataset="uned_mini"
    )
    method = given["method"]
    if method not in WEIGHTS:
        raise UserError(f"method={method}; it must be one of {', '.join(WEIGHTS)}")
    if not given["steps"].isdecimal():
        raise UserError(f"steps={given['steps']}; it must be a number of steps")
    steps = int(given["steps"])
    config = base_config()
    config.data.dataset = given["dataset"]
    config.data.batch_size = 128
    config.model.backbone = "small"
    config.model.image_size = 64
    config.pictures.scale = (0.64, 1.0)
    config.optimizer.weight_decay.update(backbone=0.05, projection=0.05, head=0.05)
    config.optimizer.clip_norm = 1.0
    rates = {"backbone_rate": 2e-3, "projection_rate": 2e-3, "head_rate": 6e-3}
    config.stages = (stage(name="all", steps=steps, warmup=min(100, steps), **rates),)
    if method != "joint":
        config.objectives[method] = WEIGHTS[method]
        config.distillation.teachers = given["teacher"]
        config.distillation.once = True
        config.distillation.teacher_temperature = 0.2
        config.distillation.student_temperature = 0.2
    return config
