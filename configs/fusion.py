r"""Several backbones side by side under one projection: frozen, or fine-tuned together.

    universal-embedding train --config=fusion:backbone=a.keras+b.keras+c.keras --workdir=runs/fusion
    universal-embedding train --config=fusion:finetune,backbone=a.keras@192+b.keras@192 \
        --workdir=runs/fusion_finetuned

Arguments: `backbone`, backbones that models.backbones.load_backbone takes, joined by +, each with
the size of its images after an @ or the size it was made for; `finetune`: train all of them too;
`prefixes`: train embeddings of 8, 16 and 32 dimensions with those of 64; `dataset`, a prepared data
set.

Features of each backbone are computed once. Their signed square roots are centered and scaled to
one mean length, so that no backbone outweighs another. Projection and head are those of
linear_probe; fine-tuning follows uned_mini.

On uned_mini (15,424 images of eight domains, not shipped), over EfficientNet-Lite0 and MobileNetV2
in .keras files, test split, mean of three seeds: merged R@1 0.781, mMP@5 0.659, frozen, and 0.789,
0.682 with EfficientNet-Lite2 as a third; over the two with `prefixes` 0.768, 0.653, and 0.666,
0.528 at 16 dimensions (benchmarks/results/fusion.md). `finetune` and the default backbones were not
run.
"""

from universal_embedding.training.config import base_config, parse_argument, shrink, stage


def get_config(argument=""):
    arg = parse_argument(
        argument,
        dataset="uned_mini",
        backbone="EfficientNetV2B0+ConvNeXtTiny",
        finetune=False,
        prefixes=False,
        runlocal=False,
    )
    config = base_config()
    config.data.dataset = arg.dataset
    config.data.batch_size = 64
    config.model.backbone = arg.backbone
    config.model.feature_power = 0.5
    config.head.scale = 10.0
    config.head.prefixes = (8, 16, 32, 64) if arg.prefixes else ()
    config.optimizer.weight_decay.update(backbone=0.05, projection=6.0, head=6.0)
    linear = {"projection_lr": 3e-3, "head_lr": 5e-3, "warmup_steps": 50}
    config.stages = (stage(name="linear", input="features", steps=1500, **linear),)
    if arg.finetune:
        config.model.image_size = 192
        config.augmentation.brightness = config.augmentation.contrast = 0.2
        config.optimizer.ema_decay = 0.999
        rates = {"backbone_lr": 5e-4, "projection_lr": 1e-3, "head_lr": 3e-3}
        finetune = {"image_size": 176, "layer_decay": 0.9, "warmup_steps": 50}
        config.stages += (stage(name="all", steps=1300, **finetune, **rates),)
        config.checkpoint_every_steps = 300
    return shrink(config) if arg.runlocal else config
