"""Exports for other runtimes: ONNX, LiteRT and OpenVINO files of the network alone.

They take square float32 images `[B, S, S, 3]`, RGB in 0..255, and return unit rows `[B, D]`:
decoding and antialiased resizing are no operations of these runtimes. `FILE.json` beside the
network says how an image becomes such a square, which `preprocess.preprocess` does.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.files import atomic_write, reporting_unreadable
from universal_embedding.models.embedding_model import EmbeddingModel
from universal_embedding.private_apis import add_erfc_to_tf2onnx

SUFFIXES = {"onnx": ".onnx", "litert": ".tflite", "openvino": ".xml"}
QUANTIZATIONS = ("none", "float16", "dynamic", "int8")
OPSET = 17  # of ONNX; onnxruntime and onnxruntime-web have had it since 2022
_EXTRAS = {
    "tf2onnx": "onnx",
    "onnxruntime": "onnx",
    "ai_edge_litert": "litert",
    "openvino": "openvino",
}


def write_network(
    model: EmbeddingModel,
    path: Path,
    kind: str,
    quantization: str = "none",
    images: Iterable[np.ndarray] = (),
) -> None:
    """Writes a network and its JSON file.

    Args:
        model: The trained model, float32.
        path: The file to write, with the suffix of its kind.
        kind: `onnx`, `litert` or `openvino`.
        quantization: Of `litert`: `none`; `float16` weights; `dynamic`: int8 weights; `int8`:
            weights and activations, with ranges measured on `images`. Inputs and outputs stay
            float32.
        images: `[S, S, 3]` float32 in 0..255, representative ones for `int8`.

    Raises:
        UserError: The suffix is another one, the library of the format is not installed, or the
            quantization is not one of this kind.
    """
    if path.suffix != SUFFIXES[kind]:
        raise UserError(f"{path} must end in {SUFFIXES[kind]}, as {kind} files do")
    if quantization != "none" and kind != "litert":
        raise UserError(f"quantization {quantization!r} is one of litert; {kind} files are float32")
    if kind == "litert":
        path.write_bytes(_to_litert(model, quantization, images))
    else:
        _require("tf2onnx" if kind == "onnx" else "openvino")
        if kind == "onnx":
            add_erfc_to_tf2onnx()
        size = model.image_size
        inputs = keras.Input((size, size, 3), name="images")
        square = keras.Model(inputs, model(inputs))
        square(np.zeros((1, size, size, 3), np.float32))  # Keras exports what was called
        options = {"opset_version": OPSET} if kind == "onnx" else {}
        square.export(str(path), format=kind, verbose=False, **options)
    settings = {
        "input": "float32 [B, S, S, 3], RGB, 0..255",
        "output": f"float32 [B, {model.output_dim}], unit rows",
        "image_size": model.image_size,
        "resize_mode": model.resize_mode,
        "embedding_dim": model.output_dim,
        "quantization": quantization,
    }
    with atomic_write(settings_path(path)) as file:
        file.write(json.dumps(settings, indent=2) + "\n")


def settings_path(path: Path) -> Path:
    """The JSON file beside a network."""
    return path.with_name(f"{path.name}.json")


def read_settings(path: Path) -> dict[str, Any]:
    """Reads the JSON file beside a network.

    Raises:
        UserError: It is missing or damaged.
    """
    source, remedy = settings_path(path), "write both again with `universal-embedding export`"
    try:
        with reporting_unreadable(source, remedy):
            settings = json.loads(source.read_text(encoding="utf-8"))
            is_known = settings["resize_mode"] in ("squash", "crop", "pad")
            if not is_known or not 0 < int(settings["image_size"]) < 10_000:
                raise ValueError("it has no image_size and resize_mode")
    except FileNotFoundError:
        raise UserError(
            f"{source}, which says how to resize images, is missing; {remedy}"
        ) from None
    return settings


def open_network(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Opens a network: a function of `[B, S, S, 3]` float32 that returns `[B, D]` float32.

    Raises:
        UserError: Its runtime is not installed, or the file is damaged.
    """
    openers = {".onnx": _open_onnx, ".tflite": _open_litert, ".xml": _open_openvino}
    try:
        return openers[path.suffix](path)
    except UserError:
        raise
    except Exception as error:  # each runtime has errors of its own for a damaged file
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{path} cannot be opened ({reason}); write it with `universal-embedding export`"
        ) from error


def fingerprint(path: Path) -> str:
    """sha256 of a network's files."""
    digest = hashlib.sha256()
    for part in (path, path.with_suffix(".bin") if path.suffix == ".xml" else None):
        if part is not None:
            digest.update(part.read_bytes())
    return digest.hexdigest()


def _to_litert(model: EmbeddingModel, quantization: str, images: Iterable[np.ndarray]) -> bytes:
    size = model.image_size
    values = [(weight, weight.numpy()) for weight in model.weights]

    def embed(images: tf.Tensor) -> tf.Tensor:
        constants = [(weight, tf.constant(value)) for weight, value in values]
        with keras.StatelessScope(state_mapping=constants):  # LiteRT leaves some variables unset
            return model(images, training=False)

    spec = tf.TensorSpec([1, size, size, 3], tf.float32, name="images")
    function = tf.function(embed, input_signature=[spec]).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    if quantization != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantization == "int8":
        examples = [image[None].astype(np.float32) for image in images]
        if not examples:
            raise UserError("quantization 'int8' measures its ranges on images, and there are none")
        converter.representative_dataset = lambda: ([example] for example in examples)
        # The L2 norm at the end stays in float32: its squares do not fit into 8 bits.
        ops = tf.lite.OpsSet
        converter.target_spec.supported_ops = [ops.TFLITE_BUILTINS_INT8, ops.TFLITE_BUILTINS]
    return converter.convert()


def _open_onnx(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    _require("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def _open_litert(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    _require("ai_edge_litert")
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def embed(images: np.ndarray) -> np.ndarray:
        rows = []
        for image in images:
            interpreter.set_tensor(source["index"], image[None])
            interpreter.invoke()
            rows.append(interpreter.get_tensor(target["index"])[0])
        return np.stack(rows)

    return embed


def _open_openvino(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    _require("openvino")
    import openvino

    compiled = openvino.Core().compile_model(str(path), "CPU")
    return lambda images: compiled(images)[compiled.output(0)]


def _require(library: str) -> None:
    import importlib.util

    if importlib.util.find_spec(library) is None:
        raise UserError(
            f"{library} is not installed: pip install 'universal-embedding[{_EXTRAS[library]}]'"
        )
