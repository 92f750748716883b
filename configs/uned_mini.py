r"""One 64-d embedding of several small domains over a pretrained ImageNet backbone.

    universal-embedding prepare --manual_dir=PATH/TO/uned_mini
    universal-embedding train --config=uned_mini:backbone=PATH/TO/efficientnet_lite0.keras \
        --workdir=runs/uned_mini

Arguments: `dataset`, a prepared data set; `backbone`, anything that models.backbones.load_backbone
takes.

A linear layer on features of the frozen backbone first, then all layers on crops of 176 pixels (the
images are no larger; evaluation uses 192). The EMA covers the whole second stage and keeps a
quarter of the weights that the stage starts from: the index of the domain `packages` is unlike
anything in training, and fine-tuning alone forgets such images.

On uned_mini (15,424 images of eight domains in UnED's layout, not shipped), over EfficientNet-Lite0
(ImageNet weights converted to a .keras file), in 20 min on 2 CPU cores: merged R@1 0.823, mMP@5
0.707 on the test split (benchmarks/results/uned_mini.md). The default backbone, whose weights Keras
downloads, is untested.
"""

from universal_embedding.training.config import base_config, parse_argument, shrink, stage


def get_config(argument=""):
    arg = parse_argument(argument, dataset="uned_mini", backbone="EfficientNetV2B0", runlocal=False)
    config = base_config()
    config.data.dataset = arg.dataset
    config.data.batch_size = 64
    config.model.backbone = arg.backbone
    config.model.image_size = 192
    config.head.scale = 10.0
    config.augmentation.brightness = config.augmentation.contrast = 0.2
    config.optimizer.weight_decay.update(backbone=0.05, projection=3.0, head=3.0)
    config.optimizer.ema_decay = 0.999
    linear = {"projection_lr": 3e-3, "head_lr": 5e-3, "warmup_steps": 50}
    config.stages = (
        stage(name="linear", input="features", steps=1500, **linear),
        stage(
            name="all",
            steps=1300,
            image_size=176,
            backbone_lr=5e-4,
            layer_decay=0.9,
            projection_lr=1e-3,
            head_lr=3e-3,
            warmup_steps=50,
        ),
    )
    config.checkpoint_every_steps = 300
    return shrink(config) if arg.runlocal else config
