"""One 64-d embedding of the eight domains of uned_mini over a pretrained EfficientNet-Lite0.

    python tools/prepare.py --manual_dir=../shared/uned_mini
    python tools/train.py --config=configs/uned_mini.py --workdir=runs/uned_mini

A linear layer on features of the frozen backbone first, then all layers on crops of 176 pixels (the
pictures have no more; evaluation takes 192). The weights are averaged over the whole second stage
and keep a quarter of what it began with: the index of `packages` is like nothing in training, and
fine-tuning alone forgets such pictures. What it reaches, in how many minutes on 2 cores, is in
benchmarks/results/uned_mini.md.
"""

from universal_embedding.training.config import base_config, stage


def get_config(argument=""):
    config = base_config()
    config.data.dataset = "uned_mini"
    config.data.batch_size = 64
    config.model.backbone = argument or "../shared/backbones/efficientnet_lite0.keras"
    config.model.image_size = 192
    config.head.scale = 10.0
    config.pictures.brightness = config.pictures.contrast = 0.2
    config.optimizer.weight_decay.update(backbone=0.05, projection=3.0, head=3.0)
    config.optimizer.average = 0.999
    linear = {"projection_rate": 3e-3, "head_rate": 5e-3, "warmup": 50}
    config.stages = (
        stage(name="linear", input="features", steps=1500, **linear),
        stage(
            name="all",
            steps=1300,
            image_size=176,
            backbone_rate=5e-4,
            layer_decay=0.9,
            projection_rate=1e-3,
            head_rate=3e-3,
            warmup=50,
        ),
    )
    config.checkpoint_every = 300
    return config
