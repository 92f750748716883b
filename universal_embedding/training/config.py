"""The base of every training config, with the meaning of each field."""

import dataclasses

from ml_collections import ConfigDict

from universal_embedding.errors import UserError
from universal_embedding.input.pictures import PictureOptions

# Each is a file of this name in training/objectives.
OBJECTIVES = (
    "classification",
    "feng",
    "absolute",
    "relational",
    "udon",
    "supervised_contrastive",
    "multi_similarity",
)


def base_config() -> ConfigDict:
    """A locked config that trains nothing yet: recipes in `configs/` set what differs.

    A recipe is a function `get_config(argument="")` that starts from this one; fields cannot be
    added, and a misspelt override is an error that names the nearest field.
    """
    config = ConfigDict()
    config.seed = 0

    config.data = ConfigDict()
    config.data.dataset = ""  # folder of the prepared set under --data_dir
    config.data.domains = ()  # keys; empty: all that are prepared
    config.data.batch_size = 128  # over all replicas and hosts
    config.data.sampler = "balanced"  # see input.samplers
    config.data.weights = ()  # of the domains, for the sampler `weights`
    config.data.temperature = 0.5  # for the sampler `temperature`
    config.data.batch = "mixed"  # domains by example, or `domain`: one domain per batch
    config.data.pictures_per_class = 0  # K of P x K batches; 0: examples are drawn one by one
    config.data.reweight_every = 0  # steps; domain weights then follow the losses; 0: never
    config.data.reweight_by = "udon_teacher"  # the loss that they follow

    # Augmentation: the fields of input.pictures.PictureOptions but for size and aspect.
    config.pictures = ConfigDict(dataclasses.asdict(PictureOptions()))
    del config.pictures.size, config.pictures.aspect

    config.model = ConfigDict()
    config.model.backbone = ""  # see models.backbones.load_backbone
    config.model.pooling = ""  # empty: the family's own
    config.model.image_size = 224
    config.model.aspect = "squash"
    config.model.dimension = 64
    config.model.dropout = 0.0
    config.model.norm_statistics = "frozen"  # of batch norm while training; or `batch`
    config.model.precision = "float32"  # or mixed_bfloat16, mixed_float16
    config.model.remat = False  # recompute activations in the backward pass

    config.head = ConfigDict()
    config.head.margin_kind = "cosface"  # see models.heads
    config.head.scale = 16.0
    config.head.margin = 0.0
    config.head.dynamic_margin = 0.0  # added by class size: this times size ** -dynamic_power
    config.head.dynamic_power = 0.25
    config.head.centers = 1
    config.head.joint = True  # one softmax over all domains' classes, or one per domain
    config.head.method = "auto"  # plain or chunked softmax
    config.head.samples = 0  # classes drawn at each step (Partial FC); 0: all count

    config.objectives = ConfigDict(dict.fromkeys(OBJECTIVES, 0.0))  # weight of each
    config.objectives.classification = 1.0

    config.distillation = ConfigDict()
    # Work directories or SavedModels; {domain} stands for each domain's key, and without it one
    # universal model teaches all domains.
    config.distillation.teachers = ""
    config.distillation.once = False  # embed whole pictures once, not each augmented batch
    config.distillation.teacher_temperature = 0.1  # of feng
    config.distillation.student_temperature = 0.1
    config.distillation.domains_apart = False  # feng: other domains' pictures are infinitely far
    config.distillation.teacher_dimension = 256  # udon: of its teachers' embeddings
    config.distillation.class_temperature = 0.1
    config.distillation.student_gradient = "projection"  # how far its distillation goes; `backbone`
    config.distillation.udon_weights = (1.0, 1.0, 1.0, 1.0)  # see objectives.udon

    config.pairs = ConfigDict()
    config.pairs.temperature = 0.1  # of supervised_contrastive
    config.pairs.alpha = 2.0  # multi_similarity: sharpness on positives
    config.pairs.beta = 50.0  # and on negatives
    config.pairs.base = 0.5  # the cosine that parts them
    config.pairs.mining = 0.1

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # any optimizer of Keras
    # Decoupled: each step takes rate x decay of a weight. Not on biases and norms.
    config.optimizer.weight_decay = ConfigDict({"backbone": 1e-6, "projection": 1e-6, "head": 1e-6})
    config.optimizer.clip_norm = 0.0  # of all gradients together; 0: none
    config.optimizer.average = 0.0  # momentum of the weights' moving average (EMA); 0: none

    config.stages = ()  # of `stage(...)`

    config.steps_per_call = 50  # at most, in one call of the compiled loop
    config.log_every = 50  # steps
    config.validate_every = 0  # steps; 0: at the end of each stage
    config.checkpoint_every = 500  # steps; also at the end of each stage
    config.keep = 3  # newest checkpoints
    config.jit_compile = False  # XLA; a TPU compiles whatever this says
    return config.lock()


def stage(**fields: object) -> ConfigDict:
    """One stage of training, `fields` over the defaults.

    Raises:
        KeyError: a field that a stage does not have.
    """
    config = ConfigDict()
    config.name = ""
    config.steps = 0
    config.input = "pictures"  # or `features`: of the frozen backbone, computed once
    config.image_size = 0  # 0: the model's
    config.domains = ()  # empty: the config's
    config.backbone_rate = 0.0  # learning rates at the schedule's top; 0: does not train
    config.projection_rate = 0.0
    config.head_rate = 0.0
    config.backbone_depths = 0  # train only so many of its depths, from the last down; 0: all
    config.layer_decay = 1.0  # the backbone's rate falls by this from each depth to the one below
    config.schedule = "cosine"  # constant, cosine or linear, after the warm-up
    config.warmup = 0  # steps, from 0
    config.margin_warmup = 0  # steps in which the head's margin grows from 0
    config.lock()
    config.update(fields)
    return config


def read_argument(argument: str, **defaults: str) -> dict[str, str]:
    """Reads what stands after the colon of `--config=FILE:name=value,name=value`.

    Raises:
        UserError: a name is none of `defaults`.
    """
    given = dict(defaults)
    for pair in filter(None, argument.split(",")):
        name, _, value = pair.partition("=")
        if name not in defaults or not value:
            raise UserError(
                f"the config's argument has {pair!r}; it takes "
                + ", ".join(f"{known}=..." for known in defaults)
            )
        given[name] = value
    return given
