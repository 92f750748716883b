"""Memory that a traced step needs besides its variables, by how long each tensor is needed.

The model of XLA: ops run in the order of the graph, but reductions and updates of variables, which
free what they read, as soon as they can. Cheap elementwise ops are computed inside of the op that
reads them, whose inputs then have to wait; everything else is written to memory, and kept until its
last reader has run. Without XLA every op runs in its turn and writes its result.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from universal_embedding.training.dry_run.step_graph import Node, StepGraph, Value

_REDUCTIONS = frozenset("All Any ArgMax BiasAddGrad L2Loss Max Mean Min Prod Sum".split())  # noqa: SIM905
# XLA never computes these twice; one that has several readers is written to memory.
_EXPENSIVE = frozenset(
    """
    DivNoNan Erf Erfc Exp Expm1 Log Log1p Pow RealDiv Rsqrt Sigmoid Softplus Sqrt Tanh Xdivy
    """.split()  # noqa: SIM905
)
_FUSIBLE = _EXPENSIVE | frozenset(
    """
    Abs Add AddN AddV2 BiasAdd BroadcastTo Cast ClipByValue ConcatV2 Elu EluGrad Equal Fill Floor
    Greater GreaterEqual Inv InvGrad LeakyRelu LeakyReluGrad Less LessEqual LogicalAnd LogicalNot
    LogicalOr Maximum Minimum Mul MulNoNan Neg NotEqual OneHot OnesLike Pack Pad PadV2 Reciprocal
    ReciprocalGrad Relu Relu6 Relu6Grad ReluGrad Reverse Round RsqrtGrad Select SelectV2 SigmoidGrad
    Sign Slice SoftplusGrad Split SqrtGrad Square SquaredDifference StridedSlice StridedSliceGrad
    Sub TanhGrad Tile Transpose Unpack ZerosLike
    """.split()  # noqa: SIM905
)
_BROADCASTS = frozenset(("BroadcastTo", "Fill", "Tile", "OneHot", "ZerosLike", "OnesLike"))
# Functions whose result and exponential are both kept, the one for the gradient of the other.
_KEPT_TWICE = frozenset(("Erf", "Erfc"))
_MAX_COPIES = 2  # an elementwise op is computed at most so often; the rest read it from memory
_DEPTHWISE_GRADIENT = "DepthwiseConv2dNativeBackpropFilter"


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a step besides its variables and its batch.

    Attributes:
        peak: Most bytes that are needed at once.
        gradients: Bytes of the weights' gradients at that moment.
        max_gradients: Most bytes of the weights' gradients at any moment.
    """

    peak: int
    gradients: int
    max_gradients: int

    @property
    def activations(self) -> int:
        """Bytes of everything but the weights' gradients at the peak."""
        return self.peak - self.gradients


def measure(graph: StepGraph, fused: bool = True, on_cpu: bool = False) -> StepMemory:
    """Measures a step's memory.

    Args:
        graph: The step.
        fused: Whether XLA compiles it.
        on_cpu: Whether XLA compiles it for a CPU, where the gradient of a depthwise convolution's
            filter `[h, w, C, 1]` takes two buffers of `[h, w, C, C]`, and that of a convolution's
            input takes its filter reversed, all filters at the start of the step.
    """
    stored = _stored_values(graph, fused)
    reads = _Reads(stored)
    created: dict[Value, int] = {}
    last_read: dict[Value, int] = {}
    gradients: set[Value] = set()
    changes: dict[int, int] = defaultdict(int)  # by place in `graph.nodes`
    for place, node in enumerate(graph.nodes):
        is_stored = [value for value in node.outputs if value.node is node and value in stored]
        if not is_stored and node.type in _FUSIBLE:
            continue  # it is computed by its readers
        sources = set().union(*map(reads.sources, node.inputs))
        if fused and (node.writes_variable or node.type in _REDUCTIONS):
            place = max((created[value] for value in sources if value in created), default=place)
        for value in sources:
            last_read[value] = max(last_read.get(value, place), place)
        if node.writes_variable:
            gradients |= sources
        created.update(dict.fromkeys(is_stored, place))
        scratch = max((measure(body, fused, on_cpu).peak for body in node.bodies), default=0)
        scratch += _depthwise_scratch(node) if on_cpu else 0
        changes[place] += scratch
        changes[place + 1] -= scratch
        if on_cpu and node.type == "Conv2DBackpropInput":
            changes[0] += node.inputs[1].size
            changes[place + 1] -= node.inputs[1].size
    last_read.update((v, len(graph.nodes)) for o in graph.outputs for v in reads.sources(o))
    gradient_changes: dict[int, int] = defaultdict(int)
    for value, place in created.items():
        size = stored[value]
        end = max(last_read.get(value, place), place) + 1
        for table in [changes] + [gradient_changes] * (value in gradients):
            table[place] += size
            table[end] -= size
    live = _running_sum(changes, len(graph.nodes))
    live_gradients = _running_sum(gradient_changes, len(graph.nodes))
    peak = max(live)
    return StepMemory(peak, live_gradients[live.index(peak)], max(live_gradients))


class _Reads:
    """The stored values that the computation of a value reads."""

    def __init__(self, stored: Mapping[Value, int]) -> None:
        self._stored = stored
        self._known: dict[Value, frozenset[Value]] = {}

    def sources(self, value: Value) -> frozenset[Value]:
        """The value itself where it is stored; what it is computed from where it is not."""
        if value in self._known:
            return self._known[value]
        if value in self._stored:
            result = frozenset((value,))
        elif value.node is None or value.node.type not in _FUSIBLE:
            result = frozenset()
        else:
            result = frozenset().union(*map(self.sources, value.node.inputs))
        self._known[value] = result
        return result


def _stored_values(graph: StepGraph, fused: bool) -> dict[Value, int]:
    """Bytes of the values that are written to memory."""
    readers: dict[Value, set[Node]] = defaultdict(set)
    for node in graph.nodes:
        for value in node.inputs:
            readers[value].add(node)
    outputs = set(graph.outputs)
    stored = {}
    for node in graph.nodes:
        for value in node.outputs:
            if value.node is not node or not value.size:
                continue  # a loop's state, or the value of a variable or constant
            is_output = value in outputs
            if not fused or is_output or _is_stored(node, readers[value]):
                copies = 2 if fused and node.type in _KEPT_TWICE else 1
                stored[value] = value.size * copies
    return stored


def _is_stored(node: Node, readers: set[Node]) -> bool:
    if node.type not in _FUSIBLE:
        return True
    into_kernel = any(
        reader.type not in _FUSIBLE | _REDUCTIONS and not reader.writes_variable
        for reader in readers
    )
    if into_kernel or (node.type in _EXPENSIVE and len(readers) > 1):
        return True
    return len(readers) > _MAX_COPIES and node.type not in _BROADCASTS


def _depthwise_scratch(node: Node) -> int:
    if node.type == _DEPTHWISE_GRADIENT:
        height, width, channels, _ = node.op.outputs[0].shape
    elif node.type == "Conv2DBackpropFilter" and node.op.outputs[0].shape[2] == 1:
        height, width, _, channels = node.op.outputs[0].shape
    else:
        return 0
    return 2 * height * width * channels**2 * node.op.outputs[0].dtype.size


def _running_sum(changes: Mapping[int, int], length: int) -> Sequence[int]:
    return list(accumulate(changes.get(place, 0) for place in range(length + 1)))
