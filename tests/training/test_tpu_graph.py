"""Steps built under TPUStrategy's own classes: their ops, their traffic, their variables."""

import gc
import math

import pytest
import tensorflow as tf

from tests.helpers.fake_records import FakeRecords, make_domains
from tests.helpers.fake_tpu import HOST_OPS, count_ops, fake_tpu_strategy
from tests.helpers.steps import trace_step
from tests.helpers.tiny_presets import SIZE, make_tiny_model
from tests.training.test_recipes import CASES, load_recipe
from universal_embedding.training.config import stage
from universal_embedding.training.experiment import Experiment

CORES = 2
RATES = {"backbone_lr": 1e-3, "projection_lr": 1e-3, "head_lr": 1e-3}


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A preset whose position embeddings are of 32 pixels."""
    folder = str(tmp_path_factory.mktemp("preset") / "vit")
    make_tiny_model("ViTBackbone").save_to_preset(folder)
    return folder


def check_step(function):
    ops = count_ops(function)
    assert ops["TPUReplicateMetadata"] == 1
    assert not HOST_OPS & ops.keys()
    assert not ops["AllToAll"]  # of a variable that is broadcast from the first core


def live_variables():
    gc.collect()
    return {
        id(o): o
        for o in gc.get_objects()
        if isinstance(o, tf.Variable) and type(o).__name__ == "ResourceVariable"
    }


@pytest.mark.slow
def test_a_step_at_another_size_has_no_host_op_and_holds_every_weight_once(
    vit, config, records, tmp_path
):
    """Every weight, two slots of AdamW, one average, on each core; the rest are counters."""
    config.model.backbone, config.model.image_size = vit, 48
    config.optimizer.ema_decay = 0.9
    config.optimizer.clip_norm = 1.0
    config.stages = (stage(steps=2, image_size=SIZE, **RATES), stage(steps=2, **RATES))
    before = live_variables()
    experiment = Experiment.from_config(config, records, tmp_path, fake_tpu_strategy(CORES))
    functions = [trace_step(experiment, s) for s in experiment.stages]
    for function in functions:
        check_step(function)
    model = sum(math.prod(w.shape) for w in experiment.model.weights)
    heads = sum(math.prod(v.shape) for v in experiment.checkpoint_state()["heads"])
    variables = [v for key, v in live_variables().items() if key not in before]
    held = sum(v.dtype.size * math.prod(v.shape) for v in variables)
    expected = CORES * 4 * (3 * (model + heads) + model)
    assert expected <= held < expected + 1000


def summed_bytes(function):
    """Bytes that the cores of a step sum up, by which they also gather."""
    graph = function.graph.as_graph_def(add_shapes=True)
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    shapes = [
        [dim.size for dim in node.attr["_output_shapes"].list.shape[0].dim]
        for node in nodes
        if node.op == "CrossReplicaSum"
    ]
    return 4 * sum(map(math.prod, shapes))


@pytest.mark.slow
def test_cores_of_a_sharded_head_exchange_embeddings_and_no_classes(config, tmp_path):
    config.optimizer.clip_norm = 1.0
    config.stages = (stage(steps=2, label_smoothing=0.1, **RATES),)
    num_classes, batch, dim = 1001, config.data.batch_size, config.model.embedding_dim
    records = {"apples": FakeRecords("apples", [[i] for i in range(num_classes)])}
    exchanged, held = [], []
    for sharded in (False, True):
        config.head.sharded = sharded
        before = live_variables()
        strategy = fake_tpu_strategy(CORES)
        experiment = Experiment.from_config(config, records, tmp_path, strategy)
        function = trace_step(experiment, experiment.stages[0])
        check_step(function)
        exchanged.append(summed_bytes(function))
        variables = [v for key, v in live_variables().items() if key not in before]
        held.append(sum(v.dtype.size * math.prod(v.shape) for v in variables))
        del experiment, function, variables
    table = 4 * num_classes * dim
    # Embeddings, labels and domains, two terms of each core; gradients of embeddings and terms; the
    # sum of all classes for label smoothing, its gradient, and the norm.
    gathered = 4 * (batch * (2 * dim + 2 + 2 * 2 * CORES) + 2 * dim + 1)
    assert exchanged[1] == exchanged[0] - table + gathered
    assert held[0] - held[1] == pytest.approx(CORES * 3 * table / 2, rel=0.01)


def test_the_input_of_a_tpu_has_static_shapes(make_experiment):
    from universal_embedding.training.data import stage_batches

    experiment = make_experiment(strategy=fake_tpu_strategy(CORES))
    batches = stage_batches(experiment, experiment.stages[0], 0)
    image = batches.element_spec["image"]
    assert [spec.shape.as_list() for spec in image._value_specs] == [[6, 16, 16, 3]] * CORES
    one_core = make_experiment(strategy=fake_tpu_strategy(1))
    assert type(stage_batches(one_core, one_core.stages[0], 0)) is type(batches)


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        case if case == ("demo", "") else pytest.param(*case, marks=pytest.mark.slow)
        for case in CASES
    ],
)
def test_every_stage_of_every_recipe_can_be_built(name, argument, tmp_path):
    config = load_recipe(name, f"{argument},runlocal")
    selected = {domain for s in config.stages for domain in s.domains}
    domains = config.data.domains or selected or ("cars", "flags")
    records = make_domains(dict.fromkeys(domains, 8), height=40, width=50)
    experiment = Experiment.from_config(config, records, tmp_path, fake_tpu_strategy(CORES))
    for recipe_stage in experiment.stages:
        check_step(trace_step(experiment, recipe_stage))
