"""Base config of every recipe, with the meaning of each field; imports no TensorFlow."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from universal_embedding.errors import UserError
from universal_embedding.input.augmentation_config import AugmentationConfig

_BOOLS = {"true": True, "false": False}


def base_config() -> ConfigDict:
    """Returns a locked config that trains nothing yet; the recipes in `configs/` override it.

    A recipe is a function `get_config(argument="")` that starts from this config. Fields cannot be
    added (only `evals` takes new entries), and a misspelled override is an error that names the
    closest field.
    """
    config = ConfigDict()
    config.seed = 0
    # Run directory or SavedModel whose model a new run starts from; empty: the backbone's weights.
    config.init_from = ""
    config.init_head = False  # also take the run's classes, matched by domain and id

    config.data = ConfigDict()
    config.data.dataset = ""  # prepared data set, a directory in --data_dir; or several: OLD+NEW
    config.data.replay = 0.0  # with OLD+NEW: share of OLD in each domain; 0: all images alike
    config.data.domains = ()  # domain keys; empty: all prepared domains
    config.data.batch_size = 128  # over all replicas and hosts
    config.data.sampler = "balanced"  # see input.samplers
    config.data.domain_weights = ()  # per-domain weights; used by sampler="weights"
    config.data.temperature = 0.5  # used by sampler="temperature"
    config.data.batching = "mixed"  # "mixed": all domains in a batch; "per_domain": one per batch
    config.data.images_per_class = 0  # K of P x K batches; 0: records are sampled independently
    config.data.reweight_every_steps = 0  # update domain weights from the losses; 0: never
    config.data.reweight_by = "udon_teacher"  # the loss that the domain weights follow
    config.data.feature_dir = ""  # features of frozen backbones, shared by runs; empty: of this run

    # The fields of input.AugmentationConfig, except size and resize_mode.
    config.augmentation = ConfigDict(dataclasses.asdict(AugmentationConfig()))
    del config.augmentation.size, config.augmentation.resize_mode

    config.model = ConfigDict()
    config.model.backbone = ""  # see models.backbones.load_backbone; "a+b" joins features
    # Center and scale features by those of the training images; always so where several are joined.
    config.model.standardize = False
    config.model.feature_power = 1.0  # signed power before that; 0.5: square root
    config.model.pooling = ""  # empty: the default of the backbone's family
    config.model.image_size = 224
    config.model.resize_mode = "squash"  # or "crop", "pad"
    config.model.embedding_dim = 64  # 0: no projection
    config.model.projection_bias = False  # True: bias, over unit features (also UDON's teachers)
    config.model.dropout = 0.0  # on the features
    config.model.freeze_batch_norm = True  # use the stored statistics during training
    config.model.dtype_policy = "float32"  # or "mixed_bfloat16", "mixed_float16"
    config.model.remat = False  # recompute activations in the backward pass

    config.head = ConfigDict()
    config.head.margin_type = "cosface"  # see models.heads
    config.head.scale = 16.0
    config.head.margin = 0.0
    config.head.class_margin = 0.0  # added per class: class_margin * size ** -class_margin_power
    config.head.class_margin_power = 0.25
    config.head.class_margin_range = ()  # (least, most) of these margins; empty: no limits
    config.head.num_subcenters = 1
    config.head.joint = True  # one softmax over the classes of all domains, or one per domain
    config.head.softmax_impl = "auto"  # or "full", "chunked"
    config.head.num_sampled_classes = 0  # classes sampled per step (Partial FC); 0: all classes
    # The loss is the sum over these prefixes of the embedding, such as (8, 16, 32, 64): each works
    # alone then (Matryoshka, arXiv 2205.13147); empty: the whole embedding.
    config.head.prefixes = ()
    config.head.sharded = False  # each replica holds its part of the classes, not all of them

    config.losses = _losses()

    config.distillation = ConfigDict()
    config.distillation.teachers = ()  # of `teacher(...)`
    config.distillation.cache_teachers = False  # embed uncropped images once, not every batch
    # Per image, the teacher with the largest loss counts, and each other one with 1 - this.
    config.distillation.drop_probability = 0.0
    # Divide weights by a moving average of the teachers' losses, with this decay; 0: do not.
    config.distillation.balance_decay = 0.0

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # any Keras optimizer
    config.optimizer.momentum = 0.9  # of sgd
    config.optimizer.momentum_dtype = "float32"  # of first moments; "bfloat16" halves their memory
    # Decoupled: each step subtracts learning_rate * decay * weight, but not of
    # biases, norms, class tokens and position embeddings.
    config.optimizer.weight_decay = ConfigDict(
        {"backbone": 1e-6, "projection": 1e-6, "head": 1e-6, "projector": 1e-6}
    )
    config.optimizer.clip_norm = 0.0  # global norm of all gradients; 0: no clipping
    # Slices of each batch that share their memory, one after another; the gradient is the batch's.
    config.optimizer.gradient_accumulation_steps = 1
    config.optimizer.ema_decay = 0.0  # moving average of the weights; 0: none

    config.stages = ()  # of `stage(...)`

    config.steps_per_execution = 50  # upper limit of the steps in one call of the compiled loop
    config.log_every_steps = 50
    config.checkpoint_every_steps = 500  # also at the end of each stage
    config.checkpoint_every_minutes = 15.0  # also by time; 0: by steps only
    config.max_to_keep = 3  # newest checkpoints
    config.best_metric = "val/merged/mean/r_at_1"  # its maximum selects the best checkpoint
    config.jit_compile = False  # XLA; always on for TPU
    config.evals = ConfigDict({"val": evaluation()})
    config.lock()
    config.evals.unlock()  # a recipe may add evaluations; the fields of each stay locked
    config.evals.val.lock()
    return config


def _losses() -> ConfigDict:
    """`config.losses`: the weight and the options of each loss in training/losses."""
    losses = ConfigDict()
    losses.classification = ConfigDict({"weight": 1.0})  # margin head, see config.head

    losses.compatible = ConfigDict({"weight": 0.0})  # backward-compatible training, CVPR 2020
    losses.compatible.run = ""  # directory of the older run, whose classes stay as they are

    # Distillation from config.distillation.teachers.
    losses.distance_distribution = ConfigDict({"weight": 0.0})  # arXiv 2003.03701
    losses.distance_distribution.teacher_temperature = 0.1
    losses.distance_distribution.student_temperature = 0.1
    # Mask cross-domain pairs in the distance distribution.
    losses.distance_distribution.mask_other_domains = False
    losses.distance = ConfigDict({"weight": 0.0})  # absolute distances
    losses.rkd_distance = ConfigDict({"weight": 0.0})  # relative distances, arXiv 1904.05068
    losses.embedding_matching = ConfigDict({"weight": 0.0})  # cosine and smooth L1, UNIC
    losses.embedding_matching.hidden_dim = 0  # of the projectors' hidden layer; 0: linear

    losses.udon = ConfigDict({"weight": 0.0})  # online distillation, arXiv 2406.08332
    losses.udon.teacher_dim = 256  # dimension of the teachers' embeddings
    losses.udon.class_temperature = 0.1
    # Where distillation gradients stop: "backbone" (they reach it) or "projection".
    losses.udon.stop_gradient_at = "backbone"
    losses.udon.term_weights = (1.0, 1.0, 1.0, 1.0)  # teacher, student, logits, similarities

    losses.supcon = ConfigDict({"weight": 0.0})  # supervised contrastive, arXiv 2004.11362
    losses.supcon.temperature = 0.1
    losses.multi_similarity = ConfigDict({"weight": 0.0})  # arXiv 1904.06627
    losses.multi_similarity.alpha = 2.0  # sharpness on positives
    losses.multi_similarity.beta = 50.0  # sharpness on negatives
    losses.multi_similarity.base = 0.5  # similarity threshold (lambda of the paper)
    losses.multi_similarity.epsilon = 0.1  # mining margin
    return losses


def load_config(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """Gives a config the values that a run recorded as JSON, in place, and returns it.

    Args:
        config: A config over `base_config`.
        values: `config` of the run's config.json.

    Raises:
        UserError: a value has no field in this version of the package.
    """
    for name, value in values.items():
        if name == "stages":
            value = tuple(stage(**fields) for fields in value)
        elif name == "teachers":
            value = tuple(teacher(**fields) for fields in value)
        elif name == "evals":
            value = ConfigDict({key: evaluation(**fields) for key, fields in value.items()})
        elif isinstance(config.get(name), ConfigDict):
            load_config(config[name], value)
            continue
        elif name not in config:
            raise UserError(f"the run's config.json has {name!r}, which is no field any more")
        elif isinstance(config[name], tuple):
            value = tuple(value)
        config[name] = value
    return config


def stage(**fields: Any) -> ConfigDict:
    """Returns one training stage: `fields` override the defaults.

    Raises:
        KeyError: a stage has no such field.
    """
    config = ConfigDict()
    config.name = ""
    config.steps = 0
    config.input = "images"  # or "features": cached outputs of the frozen backbone
    config.image_size = 0  # 0: the model's
    config.batch_size = 0  # over all replicas and hosts; 0: config.data.batch_size
    config.domains = ()  # empty: all domains of the run
    config.augmentation = ConfigDict()  # fields that differ from config.augmentation
    config.dropout = placeholder(float)  # None: config.model.dropout
    config.stochastic_depth = False  # drop the backbone's residual paths, at their own rates
    config.label_smoothing = 0.0  # share of the target that is spread over all classes
    config.backbone_lr = 0.0  # peak learning rates; 0: not trained
    config.projection_lr = 0.0
    config.head_lr = 0.0
    config.projector_lr = placeholder(float)  # of embedding_matching; None: head_lr
    config.trainable_towers = ()  # backbones of "a+b" to train, 0 the first; empty: all
    config.trainable_blocks = 0  # train only this many blocks at each backbone's end; 0: all
    config.layer_decay = 1.0  # factor on the backbone's learning rate from each block to the lower
    config.schedule = "cosine"  # "constant", "cosine", "linear" or "step", after the warmup
    config.milestones = ()  # "step": steps of the stage at which the learning rates change
    config.milestone_factor = 0.1  # "step": factor at each milestone
    config.warmup_steps = 0  # linear warmup from 0
    config.margin = placeholder(float)  # None: config.head.margin
    config.margin_start = 0.0  # margin at the beginning of its warmup
    config.margin_warmup_steps = 0  # steps in which the margin grows from margin_start
    config.margin_levels = 0  # equal jumps in which it grows, the first level included; 0: linearly
    config.lock()
    config.augmentation.unlock()
    config.update(fields)
    return config


def teacher(source: str, **fields: Any) -> ConfigDict:
    """Returns one entry of `config.distillation.teachers`: `fields` override the defaults.

    Args:
        source: A run directory, a SavedModel, a backbone (see `models.backbones.load_backbone`) or
            a table of embeddings (see `datasets.embedding_table.EmbeddingTable`). With {domain} for
            the key of a domain, one specialist for each domain.
        **fields: Other values.

    Raises:
        KeyError: a teacher has no such field.
    """
    config = ConfigDict()
    config.source = source
    config.name = ""  # in the log and for the cache; empty: the last part of `source`
    config.domains = ()  # domains that it knows; empty: all of the run
    config.weight = 1.0
    config.image_size = 0  # of a backbone; 0: its own, or 224
    config.resize_mode = "squash"  # of a backbone
    config.lock()
    config.update(fields)
    return config


def evaluation(**fields: Any) -> ConfigDict:
    """Returns one entry of `config.evals`: `fields` override the defaults.

    Its metrics are logged as `<name>/<protocol>/<domain>/<metric>`.

    Raises:
        KeyError: an evaluation has no such field.
    """
    config = ConfigDict()
    config.split = "val"
    config.every_steps = 0  # 0: at the end of each stage only
    config.protocols = ("merged",)  # "merged", "separate"; see evaluation.protocol
    config.metrics = ("r_at_1", "mmp_at_5")  # see evaluation.metrics
    config.batch_size = 64
    config.num_examples = 6  # queries per domain shown with their neighbors in TensorBoard
    config.lock()
    config.update(fields)
    return config


def parse_argument(argument: str, **defaults: bool | int | float | str) -> ConfigDict:
    """Parses the argument of a recipe, as in `--config=NAME:name=value,name=value`.

    Args:
        argument: The text after the colon. A bool may be given by its name alone.
        **defaults: The recipe's parameters. A value takes the type of its default.

    Returns:
        The values by name, as attributes too.

    Raises:
        UserError: a name is not among `defaults`, or a value does not have the type of its default.
    """
    values = dict(defaults)
    for pair in filter(None, argument.split(",")):
        name, equals, text = pair.partition("=")
        if isinstance(defaults.get(name), bool) and not equals:
            text = "true"
        if name not in defaults or not text:
            raise UserError(
                f"the config's argument has {pair!r}; it takes "
                + ", ".join(f"{known}=..." for known in defaults)
            )
        values[name] = _parse_value(name, text, defaults[name])
    return ConfigDict(values).lock()


def _parse_value(
    name: str, text: str, default: bool | int | float | str
) -> bool | int | float | str:
    try:
        return _BOOLS[text.lower()] if isinstance(default, bool) else type(default)(text)
    except (KeyError, ValueError):
        kind = {bool: "true or false", int: "a whole number", float: "a number"}[type(default)]
        raise UserError(
            f"the config's argument has {name}={text}; {name} must be {kind}, such as "
            f"{str(default).lower()}"
        ) from None


def shrink(config: ConfigDict) -> ConfigDict:
    """Turns a recipe into a smoke test, in place: `runlocal=true` of every recipe.

    The `small` network, for each backbone, on images of 32 pixels, batches of 8 and at most four
    steps per stage, which takes seconds on any machine. Losses, head, stages and data are those of
    the recipe.
    """
    config.data.batch_size = 8
    if config.data.images_per_class:
        config.data.images_per_class = 2
    if config.data.reweight_every_steps:
        config.data.reweight_every_steps = 2
    num_backbones = len(config.model.backbone.split("+"))
    config.model.update(backbone="+".join(["small"] * num_backbones), pooling="", image_size=32)
    config.model.update(dtype_policy="float32", remat=False)
    config.jit_compile = False
    for stage_config in config.stages:
        steps = min(stage_config.steps, 4)
        milestones = (step * steps // stage_config.steps for step in stage_config.milestones)
        stage_config.update(
            steps=steps,
            image_size=0,
            batch_size=min(stage_config.batch_size, 4),
            milestones=tuple(sorted(set(milestones) - {0})),
            warmup_steps=min(stage_config.warmup_steps, steps),
            margin_warmup_steps=min(stage_config.margin_warmup_steps, steps),
        )
    for eval_config in config.evals.values():
        eval_config.every_steps = 0
    config.log_every_steps = 2
    return config
