"""What a SavedModel of today needs so that TensorFlow 2.6.4, Kaggle's scorer, loads it."""

from pathlib import Path

from tensorflow.core.protobuf import saved_model_pb2


def remedy(directory: str | Path) -> int:
    """Turns each op that 2.6.4 does not know and nobody runs into a `NoOp`, in place.

    `DisableCopyOnRead` stands only in the function that writes checkpoints, so embeddings cannot
    change. The node itself must stay: others depend on its name.

    Returns:
        The number of nodes changed.
    """
    path = Path(directory) / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    changed = 0
    for meta in saved.meta_graphs:
        graph = meta.graph_def
        for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
            for node in nodes:
                if node.op == "DisableCopyOnRead":
                    node.op = "NoOp"
                    node.input[:] = [name for name in node.input if name.startswith("^")]
                    node.attr.clear()
                    changed += 1
    path.write_bytes(saved.SerializeToString(deterministic=True))
    return changed
