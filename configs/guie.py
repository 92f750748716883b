"""The Google Universal Image Embedding Challenge: 17,691 classes, ViT-H/14 (LAION-2B), ArcFace.

    universal-embedding train --config=guie --workdir=runs/guie --tpu=local
    universal-embedding train --config=guie:recipe=locked --workdir=runs/guie_locked --tpu=local

Arguments: `recipe`, `plain` (head first, then all layers), or `locked`, after the winner: in the
second stage the head is locked, and a third one trains on larger images (280); `backbone`, anything
that models.backbones.load_backbone takes.

Trains 40,000 steps of 128 (locked: 45,000), eight or nine epochs of about 640,000 images. Meant for
one TPU host of 8 cores with 16 GB each. Not run: neither the images nor the weights are shipped.
"""

from universal_embedding.errors import UserError
from universal_embedding.training.config import base_config, parse_argument, shrink, stage

RECIPES = ("plain", "locked")
EPOCH = 5000  # steps of 128: about 640,000 images


def get_config(argument=""):
    arg = parse_argument(
        argument, recipe="plain", backbone="clip_vit_h_14_laion2b_s32b_b79k", runlocal=False
    )
    if arg.recipe not in RECIPES:
        raise UserError(f"recipe={arg.recipe}; it must be one of {', '.join(RECIPES)}")
    locked = arg.recipe == "locked"
    config = base_config()
    config.data.dataset = "guie"
    config.data.sampler = "dataset_size"
    config.data.batch_size = 128
    config.model.backbone = arg.backbone
    config.model.image_size = 280 if locked else 224
    config.model.dropout = 0.2
    config.model.dtype_policy = "mixed_bfloat16"
    config.model.remat = True
    config.head.margin_type = "arcface"
    config.head.scale = 30.0
    config.head.margin = 0.3
    config.optimizer.weight_decay.update(backbone=1e-4, projection=1e-4, head=1e-4)
    config.optimizer.clip_norm = 1.0
    head_lr = 0.0 if locked else 1e-4
    finetune = {"backbone_lr": 1e-6, "layer_decay": 0.9, "warmup_steps": 500}
    config.stages = (
        stage(
            name="head",
            steps=4 * EPOCH,
            image_size=224,
            projection_lr=1e-3,
            head_lr=1e-3,
            warmup_steps=500,
            margin_warmup_steps=EPOCH,
        ),
        stage(
            name="backbone",
            steps=4 * EPOCH,
            image_size=224,
            projection_lr=1e-4,
            head_lr=head_lr,
            **finetune,
        ),
    )
    if locked:
        larger = stage(name="larger images", steps=EPOCH, projection_lr=1e-5, **finetune)
        config.stages = (*config.stages, larger)
    config.evals.val.every_steps = config.checkpoint_every_steps = EPOCH
    return shrink(config) if arg.runlocal else config
