"""The Google Universal Image Embedding Challenge: 17,691 classes, ViT-H/14 (LAION-2B), ArcFace.

    python tools/train.py --config=configs/guie.py --workdir=runs/guie --tpu=local
    python tools/train.py --config=configs/guie.py:recipe=locked --workdir=runs/guie_locked ...

The argument is a list of name=value: `recipe` is `plain` (head first, then all), or `locked`, after
the winner: in the second stage the head is locked, and a third one takes bigger pictures (280);
`backbone` is any that models.backbones.load_backbone takes.

For one TPU host of 8 cores with 16 GB each. Not run: neither the pictures nor the weights are at
hand here.
"""

from universal_embedding.errors import UserError
from universal_embedding.training.config import base_config, read_argument, stage

RECIPES = ("plain", "locked")
EPOCH = 5000  # steps of 128: about 640,000 pictures


def get_config(argument=""):
    given = read_argument(argument, recipe="plain", backbone="clip_vit_h_14_laion2b_s32b_b79k")
    if given["recipe"] not in RECIPES:
        raise UserError(f"recipe={given['recipe']}; it must be one of {', '.join(RECIPES)}")
    locked = given["recipe"] == "locked"
    config = base_config()
    config.data.dataset = "guie"
    config.data.sampler = "dataset_size"
    config.data.batch_size = 128
    config.model.backbone = given["backbone"]
    config.model.image_size = 280 if locked else 224
    config.model.dropout = 0.2
    config.model.precision = "mixed_bfloat16"
    config.model.remat = True
    config.head.margin_kind = "arcface"
    config.head.scale = 30.0
    config.head.margin = 0.3
    config.optimizer.weight_decay.update(backbone=1e-4, projection=1e-4, head=1e-4)
    config.optimizer.clip_norm = 1.0
    head_rate = 0.0 if locked else 1e-4
    deep = {"backbone_rate": 1e-6, "layer_decay": 0.9, "warmup": 500}
    config.stages = (
        stage(
            name="head",
            steps=4 * EPOCH,
            image_size=224,
            projection_rate=1e-3,
            head_rate=1e-3,
            warmup=500,
            margin_warmup=EPOCH,
        ),
        stage(
            name="backbone",
            steps=4 * EPOCH,
            image_size=224,
            projection_rate=1e-4,
            head_rate=head_rate,
            **deep,
        ),
    )
    if locked:
        bigger = stage(name="bigger pictures", steps=EPOCH, projection_rate=1e-5, **deep)
        config.stages = (*config.stages, bigger)
    config.validate_every = config.checkpoint_every = EPOCH
    return config
