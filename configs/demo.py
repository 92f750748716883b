"""The small network from scratch on the eight rendered domains: what `make demo` trains."""

from universal_embedding.training.config import base_config, stage


def get_config():
    config = base_config()
    config.data.dataset = "demo"
    config.data.batch_size = 64
    config.model.backbone = "small"
    config.model.image_size = 64
    config.pictures.scale = (0.64, 1.0)
    config.pictures.ratio = (1.0, 1.0)
    config.optimizer.weight_decay.backbone = 1e-2
    config.optimizer.weight_decay.projection = 1e-2
    config.optimizer.clip_norm = 1.0
    config.stages = (
        stage(
            name="all",
            steps=1500,
            backbone_rate=2e-3,
            projection_rate=2e-3,
            head_rate=6e-3,
            warmup=100,
        ),
    )
    config.validate_every = 500
    return config
