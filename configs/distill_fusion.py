r"""One network that learns from several at once: from a fusion of them, or from each of them.

    universal-embedding train --config=fusion:finetune,backbone=a.keras+b.keras \
        --workdir=runs/fusion
    universal-embedding train --config=distill_fusion:teachers=runs/fusion,backbone=a.keras \
        --workdir=runs/student

These are the two steps from several networks to one that is deployed: first the best model that can
be trained, whatever it costs to run, then a student of it. A teacher can also be a table, made once
on any machine and by any framework:

    universal-embedding embed --model=runs/fusion --images=DATA_DIR/uned_mini --split=train \
        --dtype=float32 --output=tables/fusion
    universal-embedding train --config=distill_fusion:teachers=tables/fusion,backbone=a.keras ...

Arguments: `teachers`, one or, joined by +, several: runs, SavedModels, backbones or tables, see
training.config.teacher; `backbone`, the student's; `finetune_steps`, 0 for a linear layer over the
frozen backbone; `dataset`, a prepared data set.

The student learns to classify (cosine softmax), to predict each teacher's embeddings (half cosine,
half smooth L1, through a projector that is thrown away; UNIC), and the distances between the images
of a batch. Teachers are standardized by PHI-S (arXiv 2410.01680); of several, the one that an image
is worst at always counts, each other one half of the time. Stages follow uned_mini.
"""

from universal_embedding.errors import UserError
from universal_embedding.training.config import (
    base_config,
    parse_argument,
    shrink,
    stage,
    teacher,
)

TEMPERATURE = 0.2  # of both distance distributions, as in the recipe distill


def get_config(argument=""):
    arg = parse_argument(
        argument,
        teachers="runs/fusion",
        finetune_steps=1300,
        dataset="uned_mini",
        backbone="EfficientNetV2B0",
        runlocal=False,
    )
    if arg.finetune_steps < 0:
        raise UserError(f"finetune_steps={arg.finetune_steps}; it must be at least 0")
    config = base_config()
    config.data.dataset = arg.dataset
    config.data.batch_size = 64 if arg.finetune_steps else 128
    config.model.backbone = arg.backbone
    config.model.dropout = 0.3
    config.head.scale = 10.0
    config.optimizer.weight_decay.update(backbone=0.05, projection=3.0, head=3.0)
    config.distillation.teachers = tuple(map(teacher, arg.teachers.split("+")))
    config.distillation.cache_teachers = True
    config.distillation.drop_probability = 0.5
    config.losses.embedding_matching.weight = 1.0
    distribution = config.losses.distance_distribution
    distribution.weight = 1.0
    distribution.teacher_temperature = distribution.student_temperature = TEMPERATURE
    linear = {"projection_lr": 3e-3, "head_lr": 5e-3, "warmup_steps": 50}
    config.stages = (stage(name="linear", input="features", steps=1500, **linear),)
    if arg.finetune_steps:
        config.model.image_size = 192
        config.augmentation.brightness = config.augmentation.contrast = 0.2
        config.optimizer.ema_decay = 0.25 ** (1 / arg.finetune_steps)
        config.stages += (
            stage(
                name="all",
                steps=arg.finetune_steps,
                image_size=176,
                backbone_lr=5e-4,
                layer_decay=0.9,
                projection_lr=1e-3,
                head_lr=3e-3,
                warmup_steps=min(50, arg.finetune_steps),
            ),
        )
    config.checkpoint_every_steps = 300
    return shrink(config) if arg.runlocal else config
