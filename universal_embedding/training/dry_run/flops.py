"""FLOPs of a traced step: two for each multiply-add of its matrix products and convolutions."""

import math
from collections import Counter

import tensorflow as tf

from universal_embedding.training.dry_run.step_graph import StepGraph


def count_flops(graph: StepGraph) -> int:
    """FLOPs of one call; of a conditional, its most expensive branch."""
    total = 0
    for node in graph.nodes:
        total += _op_flops(node.op)
        total += node.num_trips * max(map(count_flops, node.bodies), default=0)
    return total


def _op_flops(op: tf.Operation) -> int:
    if op.type == "MatMul":
        depth = op.inputs[0].shape[0 if op.get_attr("transpose_a") else 1]
        return 2 * _size(op.outputs[0]) * depth
    if op.type in ("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"):
        depth = op.inputs[0].shape[-2 if op.get_attr("adj_x") else -1]
        return 2 * _size(op.outputs[0]) * depth
    if op.type == "Einsum":
        return _einsum_flops(op)
    if op.type == "Conv2D":
        return 2 * _size(op.outputs[0]) * math.prod(op.inputs[1].shape[:3])
    if op.type == "Conv2DBackpropInput":
        return 2 * _size(op.inputs[2]) * math.prod(op.inputs[1].shape[:3])
    if op.type == "Conv2DBackpropFilter":
        return 2 * _size(op.inputs[2]) * math.prod(op.outputs[0].shape[:3])
    if op.type == "DepthwiseConv2dNative":
        return 2 * _size(op.outputs[0]) * math.prod(op.inputs[1].shape[:2])
    if op.type == "DepthwiseConv2dNativeBackpropInput":
        return 2 * _size(op.inputs[2]) * math.prod(op.inputs[1].shape[:2])
    if op.type == "DepthwiseConv2dNativeBackpropFilter":
        return 2 * _size(op.inputs[2]) * math.prod(op.outputs[0].shape[:2])
    return 0


def _einsum_flops(op: tf.Operation) -> int:
    """Two for every combination of the indices; none where a single operand is rearranged."""
    if len(op.inputs) < 2:
        return 0
    operands = op.get_attr("equation").decode().split("->")[0].split(",")
    sizes: Counter[str] = Counter()  # by index; `...` has as many as the longer operand needs
    for indices, tensor in zip(operands, op.inputs, strict=True):
        named = indices.replace("...", "").strip()
        before = len(indices.partition("...")[0])
        num_batch = len(tensor.shape) - len(named)
        shape = list(tensor.shape)
        batch = shape[before : before + num_batch]
        for index, size in zip(named, shape[:before] + shape[before + num_batch :], strict=True):
            sizes[index] = max(sizes[index], size)
        sizes["..."] = max(sizes["..."], math.prod(batch))
    return 2 * math.prod(sizes.values())


def _size(tensor: tf.Tensor) -> int:
    return tensor.shape.num_elements() or 0
