"""The ops of a traced training step, as XLA sees them: calls inlined, equal and unused ops gone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import tensorflow as tf

from universal_embedding.private_apis import called_graph, has_xla_kernel

CALLS = frozenset(("PartitionedCall", "StatefulPartitionedCall"))
LOOPS = frozenset(("While", "StatelessWhile"))
BRANCHES = frozenset(("If", "StatelessIf", "Case", "StatelessCase"))
# The result is the (first) input itself, in another shape or changed in place.
_ALIASES = frozenset(
    """
    EnsureShape ExpandDims Identity IdentityN PreventGradient Reshape Snapshot Squeeze StopGradient
    InplaceUpdate TensorListSetItem
    """.split()  # noqa: SIM905
)
_WRITES_IN_PLACE = frozenset(("InplaceUpdate", "TensorListSetItem"))
_NOT_PURE = frozenset(("Empty", "TensorListReserve", "NoOp", "ReadVariableOp"))
_VALUELESS = (tf.resource, tf.variant, tf.string)


@dataclass(eq=False)
class Value:
    """A tensor: its bytes, and the op that computes it; None for inputs and variables."""

    size: int
    node: "Node | None" = None


@dataclass(eq=False)
class Node:
    """An op that computes something.

    Attributes:
        op: The op in TensorFlow's graph, for its type, shapes and attributes.
        inputs: The tensors that it reads.
        outputs: The tensors that it computes.
        bodies: The branches of a conditional, or the body of a loop.
        num_trips: How often a loop's body runs; 1 for other ops.
    """

    op: tf.Operation
    inputs: list[Value]
    outputs: list[Value] = field(default_factory=list)
    bodies: list["StepGraph"] = field(default_factory=list)
    num_trips: int = 1

    @property
    def type(self) -> str:
        """The op's type."""
        return self.op.type

    @property
    def writes_variable(self) -> bool:
        """Whether the op assigns to a variable."""
        return self.type.startswith(("Assign", "ResourceApply", "ResourceScatter"))


@dataclass(eq=False)
class StepGraph:
    """The ops of a function in an order in which they can run.

    Attributes:
        nodes: Ops that the outputs or the variables depend on.
        outputs: The function's results.
    """

    nodes: list[Node]
    outputs: list[Value]

    def op_types(self) -> set[str]:
        """Types of all ops, those in loops and branches included."""
        inner = [graph.op_types() for node in self.nodes for graph in node.bodies]
        return {node.type for node in self.nodes}.union(*inner)

    def ops_without_kernel(self) -> list[str]:
        """Types of the ops that XLA cannot compile."""
        return sorted(name for name in self.op_types() if not has_xla_kernel(name))

    def forward(self) -> "StepGraph":
        """The ops that the first output depends on."""
        return StepGraph(_needed(self.nodes, self.outputs[:1]), self.outputs[:1])


def read_graph(graph: tf.Graph) -> StepGraph:
    """Reads a function's graph (`ConcreteFunction.graph`)."""
    return _read_graph(graph, [Value(_num_bytes(tensor)) for tensor in graph.inputs])


def _read_graph(graph: tf.Graph, inputs: Sequence[Value]) -> StepGraph:
    nodes: list[Node] = []
    outputs = _read_ops(graph, inputs, nodes, {})
    roots = [value for node in nodes if node.writes_variable for value in node.inputs]
    needed = set(_needed(nodes, [*outputs, *roots]))
    return StepGraph([n for n in nodes if n.writes_variable or n in needed], outputs)


def _read_ops(
    graph: tf.Graph, inputs: Sequence[Value], nodes: list[Node], computed: dict[tuple, list[Value]]
) -> list[Value]:
    """Appends a function's ops to `nodes`; returns its results."""
    values: dict = {t.ref(): value for t, value in zip(graph.inputs, inputs, strict=True)}
    for op in graph.get_operations():
        if any(output.ref() in values for output in op.outputs):
            continue  # a parameter of the function
        arguments = [values[tensor.ref()] for tensor in op.inputs]
        if op.type in CALLS:
            results = _read_ops(called_graph(op, "f"), arguments, nodes, computed)
        else:
            results = _read_op(op, arguments, nodes, computed)
        values.update(zip((t.ref() for t in op.outputs), results, strict=True))
    return [values[tensor.ref()] for tensor in graph.outputs]


def _read_op(
    op: tf.Operation,
    arguments: list[Value],
    nodes: list[Node],
    computed: dict[tuple, list[Value]],
) -> list[Value]:
    if op.type in _ALIASES:
        if op.type in _WRITES_IN_PLACE:
            nodes.append(Node(op, arguments))
        return arguments[: len(op.outputs)]
    key = _key(op, arguments)
    if key in computed:
        return computed[key]
    node = Node(op, arguments)
    if op.type in LOOPS:
        node.bodies = [_read_graph(called_graph(op, "body"), arguments)]
        node.num_trips = _num_trips(op)
        node.outputs = arguments[: len(op.outputs)]  # the loop's state changes in place
        nodes.append(node)
        return node.outputs
    if op.type in BRANCHES:
        node.bodies = [_read_graph(graph, arguments[1:]) for graph in _branches(op)]
    size_of_list = _list_bytes(op)
    node.outputs = [Value(size_of_list or _num_bytes(tensor), node) for tensor in op.outputs]
    if op.type == "ReadVariableOp" or op.type == "Const":
        node.outputs = [Value(value.size) for value in node.outputs]
    nodes.append(node)
    if key:
        computed[key] = node.outputs
    return node.outputs


def _key(op: tf.Operation, arguments: Iterable[Value]) -> tuple:
    """Equal for ops that compute the same, of which XLA keeps one; () for all others."""
    if op.type in _NOT_PURE or op.type in LOOPS | BRANCHES or not op.outputs:
        return ()
    if any(tensor.dtype == tf.resource for tensor in op.inputs) or op.type.startswith("Random"):
        return ()
    attributes: Mapping = op.node_def.attr
    public = (item for item in attributes.items() if not item[0].startswith("_"))
    texts = sorted((name, value.SerializeToString()) for name, value in public)
    return op.type, tuple(map(id, arguments)), tuple(texts)


def _needed(nodes: Sequence[Node], values: Iterable[Value]) -> list[Node]:
    """The nodes that `values` depend on, in their order."""
    needed: set[Node] = set()
    wanted = {id(value) for value in values}
    for node in reversed(nodes):
        is_in_place = node.type in _WRITES_IN_PLACE or node.type in LOOPS
        written = node.inputs if is_in_place else node.outputs
        if any(id(value) in wanted for value in written):
            needed.add(node)
            wanted.update(id(value) for value in node.inputs)
    return [node for node in nodes if node in needed]


def _branches(op: tf.Operation) -> list[tf.Graph]:
    if op.type in ("If", "StatelessIf"):
        return [called_graph(op, "then_branch"), called_graph(op, "else_branch")]
    return [called_graph(op, "branches", i) for i in range(len(op.get_attr("branches")))]


def _num_trips(op: tf.Operation) -> int:
    """Trips of a `tf.while_loop` from 0 whose limit is a constant; 1 for others."""
    condition = called_graph(op, "cond")
    trips = []
    for less in (inner for inner in condition.get_operations() if inner.type == "Less"):
        limit = less.inputs[1]
        value = tf.get_static_value(limit)
        for parameter, argument in zip(condition.inputs, op.inputs, strict=True):
            if value is None and parameter is limit:
                value = tf.get_static_value(argument)
        if value is not None:
            trips.append(int(value))
    return max(min(trips, default=1), 0)


def _num_bytes(tensor: tf.Tensor) -> int:
    num_elements = tensor.shape.num_elements()
    return 0 if tensor.dtype in _VALUELESS or not num_elements else num_elements * tensor.dtype.size


def _list_bytes(op: tf.Operation) -> int:
    """Bytes of a new list of tensors, which a TensorArray is."""
    if op.type != "TensorListReserve":
        return 0
    shape, length = map(tf.get_static_value, op.inputs)
    if shape is None or length is None:
        return 0
    return int(length) * int(shape.prod()) * tf.as_dtype(op.get_attr("element_dtype")).size
