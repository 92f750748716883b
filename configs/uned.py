"""UnED's universal models and specialists (arXiv 2309.01858), and two distilled models.

    universal-embedding train --config=uned:variant=UJCRR --workdir=runs/ujcrr
    universal-embedding train --config=uned:domain=cars,backbone=clip_vit_base_patch16 ...

Arguments: `variant`, one of UJCDS, UJCRR, USCDS and USCRR (Universal, Joint or Separate Classifier,
Dataset Size or Round Robin), UDON (arXiv 2406.08332) or distance_distribution (arXiv 2003.03701);
`domain`, which trains the specialist of one domain instead; `teachers`, the specialists' run
directories, with {domain} for the key; `backbone`, anything that models.backbones.load_backbone
takes.

The recipes are those of the papers' code. Batches of 128 from one domain, cosine classifiers of
scale 16 without margin, AdamW with weight decay 1e-6, constant learning rates: classifiers 1e-3,
backbone 1e-5 after two epochs without it; 7 epochs of 22,118 steps, UDON 10, specialists 30 of
their own. Projections have a bias. UnED's code leaves the projection at 1e-5; here it has 1e-3, as
in its successor UDON, whose domains alternate for 1,000 steps and are then sampled by their
teachers' losses. distance_distribution is UJCRR with the loss of Feng et al. added, at the
temperatures of the recipe `distill`. Meant for one host of 8 TPU cores or GPUs: the backbone
computes in bfloat16, to which a TPU rounds float32 factors by default, and steps run in XLA;
elsewhere set --config.model.dtype_policy=float32 --config.jit_compile=False. Not run: it needs
UnED's 2.8 million training images.
"""

from universal_embedding.datasets.domains import UNED
from universal_embedding.errors import UserError
from universal_embedding.training.config import (
    base_config,
    parse_argument,
    shrink,
    stage,
    teacher,
)

# Whether the classifier is joint, the sampler, and the number of epochs.
VARIANTS = {
    "UJCDS": (True, "dataset_size", 7),
    "UJCRR": (True, "round_robin", 7),
    "USCDS": (False, "dataset_size", 7),
    "USCRR": (False, "round_robin", 7),
    "UDON": (False, "round_robin", 10),
    "distance_distribution": (True, "round_robin", 7),
}
DISTILLED = ("UDON", "distance_distribution")
TEMPERATURE = 0.2  # of both distance distributions
BATCH_SIZE = 128


def get_config(argument=""):
    arg = parse_argument(
        argument,
        variant="UJCRR",
        domain="",
        teachers="runs/specialists/{domain}",
        backbone="vit_base_patch16_224_imagenet21k",
        runlocal=False,
    )
    if arg.variant not in VARIANTS:
        raise UserError(f"variant={arg.variant}; it must be one of {', '.join(VARIANTS)}")
    if arg.domain and arg.domain not in UNED:
        raise UserError(f"domain={arg.domain}; it must be one of {', '.join(UNED)}")
    if arg.domain and arg.variant in DISTILLED:
        raise UserError(f"variant={arg.variant} is of all domains; leave domain={arg.domain} out")
    domains = [arg.domain] if arg.domain else list(UNED)
    num_images = sum(UNED[domain].num_images["train"] for domain in domains)
    is_joint, sampler, num_epochs = VARIANTS[arg.variant]
    epoch, num_epochs = num_images // BATCH_SIZE, 30 if arg.domain else num_epochs

    config = base_config()
    config.data.dataset = "uned"
    config.data.domains = tuple(domains) if arg.domain else ()
    config.data.batch_size = BATCH_SIZE
    config.data.batching = "per_domain"
    config.augmentation.crop = "resize"
    config.data.sampler = sampler
    config.model.backbone = arg.backbone
    config.model.projection_bias = True
    config.model.dtype_policy = "mixed_bfloat16"
    config.jit_compile = True
    config.head.joint = is_joint
    if arg.variant == "UDON":
        config.losses.udon.weight = 1.0
        config.losses.classification.weight = 0.0
        config.data.reweight_every_steps = 1000
    if arg.variant == "distance_distribution":
        config.distillation.update(teachers=(teacher(arg.teachers),), cache_teachers=True)
        distribution = config.losses.distance_distribution
        distribution.weight = 1.0
        distribution.teacher_temperature = distribution.student_temperature = TEMPERATURE
    constant = {"projection_lr": 1e-3, "head_lr": 1e-3, "schedule": "constant"}
    config.stages = (
        stage(name="head", steps=2 * epoch, **constant),
        stage(name="all", steps=(num_epochs - 2) * epoch, backbone_lr=1e-5, **constant),
    )
    config.evals.val.every_steps = config.checkpoint_every_steps = epoch
    return shrink(config) if arg.runlocal else config
