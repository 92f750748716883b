"""UnED's universal models and specialists (arXiv 2309.01858), with the paper's recipe.

    universal-embedding train --config=uned:variant=UJCRR --workdir=runs/ujcrr
    universal-embedding train --config=uned:domain=cars,backbone=clip_vit_base_patch16 ...

Arguments: `variant`, one of UJCDS, UJCRR, USCDS and USCRR (Universal, Joint or Separate Classifier,
Dataset Size or Round Robin); `domain`, which trains the specialist of one domain instead;
`backbone`, anything that models.backbones.load_backbone takes.

Batches of 128 from one domain, AdamW, constant learning rates: classifiers 1e-3, backbone 1e-5
after two epochs without it; 7 epochs of 22,118 steps, specialists 30 of their own. The paper's code
leaves the projection at 1e-5; here it has 1e-3, as in its successor UDON (arXiv 2406.08332). Meant
for one host of 8 TPU cores or GPUs. Not run: it needs UnED's 2.8 million training images.
"""

from universal_embedding.datasets.domains import UNED
from universal_embedding.errors import UserError
from universal_embedding.training.config import base_config, parse_argument, shrink, stage

VARIANTS = {
    "UJCDS": (True, "dataset_size"),
    "UJCRR": (True, "round_robin"),
    "USCDS": (False, "dataset_size"),
    "USCRR": (False, "round_robin"),
}
BATCH_SIZE = 128


def get_config(argument=""):
    arg = parse_argument(
        argument,
        variant="UJCRR",
        domain="",
        backbone="vit_base_patch16_224_imagenet21k",
        runlocal=False,
    )
    if arg.variant not in VARIANTS:
        raise UserError(f"variant={arg.variant}; it must be one of {', '.join(VARIANTS)}")
    if arg.domain and arg.domain not in UNED:
        raise UserError(f"domain={arg.domain}; it must be one of {', '.join(UNED)}")
    domains = [arg.domain] if arg.domain else list(UNED)
    num_images = sum(UNED[domain].num_images["train"] for domain in domains)
    epoch, num_epochs = num_images // BATCH_SIZE, 30 if arg.domain else 7

    config = base_config()
    config.data.dataset = "uned"
    config.data.domains = tuple(domains) if arg.domain else ()
    config.data.batch_size = BATCH_SIZE
    config.data.batching = "per_domain"
    config.augmentation.crop = "resize"
    config.model.backbone = arg.backbone
    config.head.joint, config.data.sampler = VARIANTS[arg.variant]
    constant = {"projection_lr": 1e-3, "head_lr": 1e-3, "schedule": "constant"}
    config.stages = (
        stage(name="head", steps=2 * epoch, **constant),
        stage(name="all", steps=(num_epochs - 2) * epoch, backbone_lr=1e-5, **constant),
    )
    config.evals.val.every_steps = config.checkpoint_every_steps = epoch
    return shrink(config) if arg.runlocal else config
