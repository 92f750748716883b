"""FLOPs and memory of traced functions against closed forms, published numbers and XLA."""

import json

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.compiler.xla.service import hlo_pb2

from tests.helpers.fake_records import make_domains
from universal_embedding.private_apis import without_memory
from universal_embedding.training.config import base_config, stage
from universal_embedding.training.dry_run.flops import count_flops
from universal_embedding.training.dry_run.memory import measure
from universal_embedding.training.dry_run.step_graph import read_graph
from universal_embedding.training.dry_run.tracing import batch_spec, trace_step
from universal_embedding.training.experiment import Experiment
from universal_embedding.training.train_step import TrainStep

N = 64  # matrices of these tests are N x N float32
MATRIX = 4 * N * N


def graph_of(function, *shapes):
    specs = [tf.TensorSpec(shape) for shape in shapes or [(N, N)]]
    return read_graph(tf.function(function).get_concrete_function(*specs).graph)


@pytest.mark.parametrize(
    ("function", "shapes", "flops"),
    [
        (tf.matmul, [(2, 3), (3, 5)], 2 * 2 * 3 * 5),
        (lambda a, b: tf.matmul(a, b, transpose_a=True), [(3, 2), (3, 5)], 2 * 2 * 3 * 5),
        (lambda a, b: tf.matmul(a, b, transpose_b=True), [(7, 2, 3), (7, 5, 3)], 7 * 2 * 2 * 3 * 5),
        (lambda a, b: tf.einsum("bnd,dhk->bnhk", a, b), [(2, 3, 4), (4, 5, 6)], 2 * 720),
        (lambda a, b: tf.einsum("...d,de->...e", a, b), [(2, 3, 4), (4, 5)], 2 * 2 * 3 * 4 * 5),
        (lambda a: tf.einsum("ij->ji", a), [(3, 4)], 0),
        (
            lambda x, k: tf.nn.conv2d(x, k, 2, "SAME"),
            [(2, 8, 8, 3), (5, 5, 3, 7)],
            2 * 2 * 16 * 525,
        ),
        (
            lambda x, k: tf.nn.depthwise_conv2d(x, k, [1, 1, 1, 1], "SAME"),
            [(2, 8, 8, 3), (5, 5, 3, 1)],
            2 * 2 * 64 * 3 * 25,
        ),
    ],
)
def test_flops_of_an_op_are_two_for_each_multiplication(function, shapes, flops):
    assert count_flops(graph_of(function, *shapes)) == flops


def test_flops_of_a_gradient_a_loop_a_branch_and_a_call():
    @tf.function(jit_compile=True)
    def called(x):
        return tf.matmul(x, x)

    def gradients(x, w):
        with tf.GradientTape() as tape:
            tape.watch((x, w))
            y = tf.reduce_sum(tf.nn.relu(tf.matmul(x, w)) ** 2)
        return tape.gradient(y, (x, w))

    def loop(x):
        return tf.while_loop(
            lambda i, _: i < 5, lambda i, y: (i + 1, tf.matmul(y, y)), (tf.constant(0), x)
        )[1]

    def branch(x):
        return tf.cond(x[0, 0] > 0, lambda: x @ x @ x, lambda: x @ x)

    product = 2 * N**3
    assert count_flops(graph_of(gradients, (N, N), (N, N))) == 3 * product
    assert count_flops(graph_of(loop)) == 5 * product
    assert count_flops(graph_of(branch)) == 2 * product
    assert count_flops(graph_of(lambda x: called(x) + 1.0)) == product
    assert count_flops(graph_of(lambda x: (x, x @ x)[0])) == 0  # unused


def test_flops_of_a_network_are_the_published_ones():
    """300 million multiplications, of which 1.28 million in the classifier (arXiv 1801.04381)."""
    with without_memory():
        model = keras.applications.MobileNetV2(include_top=False, weights=None, pooling="avg")
    flops = count_flops(graph_of(lambda x: model(x), (1, 224, 224, 3)))
    assert flops / 2 == pytest.approx(300e6 - 1.28e6, rel=0.01)


def test_memory_of_matrix_products_is_that_of_the_results_in_use():
    def chain(x):
        for _ in range(4):
            x = x @ x
        return x

    def fan(x):
        results = [x @ (x + float(i)) for i in range(4)]
        return results[3] @ (results[2] @ (results[1] @ results[0]))

    assert measure(graph_of(chain)).peak == 2 * MATRIX
    # Four factors x + i are written for one product each, and three results wait by then.
    assert measure(graph_of(fan)).peak == 5 * MATRIX


def test_memory_of_elementwise_ops_is_that_of_their_last_result():
    def chain(x):
        x = x @ x
        return tf.nn.relu(x * 2.0 + 1.0) - 3.0

    assert measure(graph_of(chain)).peak == 2 * MATRIX
    assert measure(graph_of(lambda x: tf.reduce_sum(tf.exp(x)))).peak == 4
    assert measure(graph_of(lambda x: tf.reduce_sum(tf.exp(x))), fused=False).peak >= MATRIX


def test_equal_ops_are_computed_once():
    def twice(x):
        return tf.sigmoid(x) @ (tf.sigmoid(x) @ x)

    assert measure(graph_of(twice)).peak == 3 * MATRIX
    assert len([node for node in graph_of(twice).nodes if node.type == "Sigmoid"]) == 1


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_gradients_are_told_from_activations(clip_norm):
    weights = [tf.Variable(tf.ones((N, N))) for _ in range(3)]

    def step(x):
        with tf.GradientTape() as tape:
            y = x
            for weight in weights:
                y = tf.exp(y @ weight)
            loss = tf.reduce_sum(y)
        gradients = tape.gradient(loss, weights)
        if clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, clip_norm)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.assign_sub(0.1 * gradient)
        return loss

    memory = measure(graph_of(step))
    # Clipping needs all of them, and its factor; without it, each is used up when it is there.
    assert memory.max_gradients == (3 * MATRIX + 4 if clip_norm else MATRIX)
    assert memory.peak == memory.activations + memory.gradients


def test_a_cpu_reverses_the_filter_for_the_gradient_of_the_input():
    kernel = tf.Variable(tf.ones((3, 3, 4, 4)))

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.nn.conv2d(x, kernel, 1, "SAME")
        return tape.gradient(y, x)

    graph = graph_of(step, (1, 8, 8, 4))
    assert measure(graph, on_cpu=True).peak - measure(graph).peak == 4 * 3 * 3 * 4 * 4


def test_ops_that_xla_cannot_compile_are_named():
    def resize(x):
        return tf.image.resize(x, (8, 8), "bicubic")

    assert graph_of(resize, (1, 4, 4, 3)).ops_without_kernel() == ["ResizeBicubic"]
    assert graph_of(lambda x: tf.nn.softmax(x @ x)).ops_without_kernel() == []


def vit_preset(folder):
    """A small ViT as a preset directory that has no weights."""
    with without_memory():
        vit = keras_hub.models.ViTBackbone((96, 96, 3), 16, 6, 6, 384, 1536)
    text = json.dumps(keras.saving.serialize_keras_object(vit))
    (folder / "config.json").write_text(text)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
@pytest.mark.parametrize(
    "backbone", ["vit", "vit with remat", "ConvNeXtTiny", "EfficientNetB0", "ResNet50"]
)
def test_memory_is_that_of_xla_within_15_percent(backbone, clip_norm, tmp_path):
    config = base_config()
    config.data.batch_size = batch_size = 16
    config.model.backbone = vit_preset(tmp_path) if "vit" in backbone else backbone
    config.model.image_size = 96
    config.model.remat = "remat" in backbone
    config.optimizer.clip_norm = clip_norm
    config.stages = (stage(steps=1, backbone_lr=1e-3, projection_lr=1e-3, head_lr=1e-3),)
    strategy = tf.distribute.get_strategy()
    records = make_domains({"apples": 30, "boats": 50}, height=20, width=24)
    experiment = Experiment.from_config(config, records, tmp_path, strategy, pretrained=False)
    (training,) = experiment.stages
    graph, _ = trace_step(experiment, training, batch_size, compiled=True)

    step, specs = TrainStep(experiment, training), batch_spec(experiment, training, batch_size)

    @tf.function(jit_compile=True)
    def compiled_step(*values):
        return step(dict(zip(specs, values, strict=True)))

    compiler_ir = compiled_step.experimental_get_compiler_ir(*specs.values())
    serialized = compiler_ir(stage="optimized_hlo_proto_serialized", platform_name="CPU")
    buffers = hlo_pb2.HloProto.FromString(serialized).buffer_assignment.buffer_allocations
    xla = sum(b.size for b in buffers if not b.is_entry_computation_parameter)
    memory = measure(graph, on_cpu=True)
    print(f"{backbone}, clip_norm {clip_norm}: {memory.peak / 1e6:.1f} MB, XLA {xla / 1e6:.1f} MB")
    assert memory.peak == pytest.approx(xla, rel=0.15)
    assert np.isfinite(xla)
