"""The Google Universal Image Embedding Challenge: 17,691 classes, ViT-H/14 (LAION-2B).

    universal-embedding train --config=guie --workdir=runs/guie --tpu=local
    universal-embedding train --config=guie:recipe=first --workdir=runs/first --tpu=local

Arguments: `recipe`; `backbone`, anything that models.backbones.load_backbone takes. The recipes are
after what is published of the solutions, on the training set of 478,185 images that prepare makes:

- `frozen`, the published notebook that takes three hours on a TPU v3-8: ten epochs of a projection
  and ArcFace (margin 0.3) over a frozen backbone, whose features are computed once.
- `first`, the winner: CosFace (0.55) and the projection on a frozen backbone, then only the
  backbone at 1/80 of their rate, on larger images (280), and with margin 0.65 on Products-10K.
  Projection and classes stay locked, so runs of its later stages may be averaged.
- `second`: all layers, the backbone at 1/1000 of the head's rate; the margin grows by 0.1 an epoch,
  from 0.1 to 0.8.
- `third`, third and ninth place: margin 0.3, batches of 512 and augmentation, then margin 0.5,
  batches of 64 and none.

Numbers of epochs, and the rates of `second` and `third`, are not theirs. An epoch is 3,736 steps of
128. Meant for one TPU host of 8 cores with 16 GB each: the backbone computes in bfloat16, steps run
in XLA. Not run: neither the images nor the weights are shipped.
"""

from universal_embedding.errors import UserError
from universal_embedding.training.config import base_config, parse_argument, shrink, stage

NUM_IMAGES, BATCH_SIZE = 478_185, 128
EPOCH = round(NUM_IMAGES / BATCH_SIZE)


def get_config(argument=""):
    arg = parse_argument(
        argument, recipe="frozen", backbone="clip_vit_h_14_laion2b_s32b_b79k", runlocal=False
    )
    if arg.recipe not in RECIPES:
        raise UserError(f"recipe={arg.recipe}; it must be one of {', '.join(RECIPES)}")
    config = base_config()
    config.data.dataset = "guie"
    config.data.sampler = "dataset_size"
    config.data.batch_size = BATCH_SIZE
    config.model.backbone = arg.backbone
    config.model.dropout = 0.2
    config.model.dtype_policy = "mixed_bfloat16"
    config.model.remat = True
    config.jit_compile = True
    config.head.margin_type = "arcface"
    config.head.scale = 30.0
    config.head.margin = 0.3
    config.optimizer.weight_decay.update(backbone=1e-4, projection=1e-4, head=1e-4)
    config.optimizer.clip_norm = 1.0
    config.stages = RECIPES[arg.recipe](config)
    config.evals.val.every_steps = config.checkpoint_every_steps = EPOCH
    return shrink(config) if arg.runlocal else config


def _frozen(_):
    rates = {"projection_lr": 1e-3, "head_lr": 1e-3, "warmup_steps": 500}
    return (stage(name="head", input="features", steps=10 * EPOCH, **rates),)


def _first(config):
    config.model.image_size = 280
    config.head.margin_type, config.head.margin = "cosface", 0.55
    config.augmentation.random_erasing = 0.16
    config.optimizer.name, config.optimizer.momentum = "sgd", 0.0
    rate = 0.02
    backbone = {"backbone_lr": rate / 80, "schedule": "step"}
    return (
        stage(
            name="head",
            steps=6 * EPOCH,
            image_size=224,
            projection_lr=rate,
            head_lr=rate,
            schedule="step",
            milestones=(2 * EPOCH, 4 * EPOCH),
        ),
        stage(name="backbone", steps=3 * EPOCH, image_size=224, milestones=(EPOCH,), **backbone),
        stage(name="larger images", steps=EPOCH, milestones=(EPOCH // 2,), **backbone),
        stage(
            name="products",
            steps=EPOCH,
            domains=("products10k",),
            margin=0.65,
            milestones=(EPOCH // 2,),
            **backbone,
        ),
    )


def _second(_):
    return (
        stage(
            name="all",
            steps=10 * EPOCH,
            backbone_lr=1e-6,
            projection_lr=1e-3,
            head_lr=1e-3,
            warmup_steps=500,
            margin=0.8,
            margin_start=0.1,
            margin_warmup_steps=8 * EPOCH,
            margin_levels=8,
        ),
    )


def _third(config):
    config.augmentation.update(brightness=0.2, contrast=0.2, saturation=0.2, randaugment=2)
    head = {"projection_lr": 1e-3, "head_lr": 1e-3, "warmup_steps": 500}
    finetune = {"backbone_lr": 1e-6, "projection_lr": 1e-4, "head_lr": 1e-4, "warmup_steps": 500}
    none = {"crop": "none", "flip": False, "randaugment": 0}
    none |= {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    return (
        stage(name="head", steps=6 * EPOCH // 4, batch_size=512, margin=0.3, **head),
        stage(
            name="all",
            steps=2 * 2 * EPOCH,
            batch_size=64,
            margin=0.5,
            augmentation=none,
            **finetune,
        ),
    )


RECIPES = {"frozen": _frozen, "first": _first, "second": _second, "third": _third}
