"""UnED's universal models and specialists (arXiv 2309.01858), with the paper's recipe.

    python tools/train.py --config=configs/uned.py:variant=UJCRR --workdir=runs/ujcrr
    python tools/train.py --config=configs/uned.py:domain=cars,backbone=clip_vit_base_patch16 ...

The argument is a list of name=value: `variant` is UJCDS, UJCRR, USCDS or USCRR (Universal, Joint or
Separate Classifier, Dataset Size or Round Robin); `domain` trains the specialist of one domain
instead; `backbone` is any that models.backbones.load_backbone takes.

Batches of 128 from one domain, AdamW, constant rates: classifiers 1e-3, backbone 1e-5 after two
epochs without it; 7 epochs of 22,118 steps, specialists 30 of their own. The paper's code leaves
the projection at 1e-5; here it has 1e-3, as its successor UDON gives it (arXiv 2406.08332).
For one host of 8 TPU cores or GPUs. Not run: the pictures are not at hand here.
"""

from universal_embedding.datasets.domains import UNED
from universal_embedding.errors import UserError
from universal_embedding.training.config import base_config, read_argument, stage

VARIANTS = {
    "UJCDS": (True, "dataset_size"),
    "UJCRR": (True, "round_robin"),
    "USCDS": (False, "dataset_size"),
    "USCRR": (False, "round_robin"),
}
BATCH = 128


def get_config(argument=""):
    given = read_argument(
        argument, variant="UJCRR", domain="", backbone="vit_base_patch16_224_imagenet21k"
    )
    if given["variant"] not in VARIANTS:
        raise UserError(f"variant={given['variant']}; it must be one of {', '.join(VARIANTS)}")
    if given["domain"] and given["domain"] not in UNED:
        raise UserError(f"domain={given['domain']}; it must be one of {', '.join(UNED)}")
    domains = [given["domain"]] if given["domain"] else list(UNED)
    pictures = sum(UNED[domain].pictures["train"] for domain in domains)
    epoch, epochs = pictures // BATCH, 30 if given["domain"] else 7

    config = base_config()
    config.data.dataset = "uned"
    config.data.domains = tuple(domains) if given["domain"] else ()
    config.data.batch_size = BATCH
    config.data.batch = "domain"
    config.pictures.crop = "resize"
    config.model.backbone = given["backbone"]
    config.head.joint, config.data.sampler = VARIANTS[given["variant"]]
    fixed = {"projection_rate": 1e-3, "head_rate": 1e-3, "schedule": "constant"}
    config.stages = (
        stage(name="head", steps=2 * epoch, **fixed),
        stage(name="all", steps=(epochs - 2) * epoch, backbone_rate=1e-5, **fixed),
    )
    config.validate_every = config.checkpoint_every = epoch
    return config
