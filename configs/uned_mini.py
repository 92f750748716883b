"""One 64-d embedding of the eight domains of uned_mini over a pretrained EfficientNet-Lite0.

    python tools/prepare.py --manual_dir=../shared/uned_mini
    python tools/train.py --config=configs/uned_mini.py --workdir=runs/uned_mini

A linear layer on features of the frozen backbone first, then all layers on augmented pictures.
"""

from universal_embedding.training.config import base_config, stage


def get_config(backbone="../shared/backbones/efficientnet_lite0.keras"):
    config = base_config()
    config.data.dataset = "uned_mini"
    config.data.batch_size = 64
    config.model.backbone = backbone
    config.stages = (
        stage(name="linear", input="features", steps=3000, projection_rate=1e-3, head_rate=1e-3),
        stage(
            name="all",
            steps=600,
            backbone_rate=3e-4,
            projection_rate=3e-4,
            head_rate=1e-3,
            warmup=50,
        ),
    )
    return config
