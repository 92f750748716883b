"""Checks that submissions load and embed alike in TensorFlow 2.6.4: `make check-kaggle`.

    python tests/kaggle/check.py [family ...]

Exports a model over each family of backbones (tiny random ones, and real ones that need no
network), embeds odd and ordinary images in this TensorFlow and in the scorer's, and compares.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import environment
import keras
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.helpers import tiny_presets
from universal_embedding.export.embedder import Embedder
from universal_embedding.export.zip_archive import write_submission
from universal_embedding.models.backbones import FusedBackbone, load_backbone
from universal_embedding.models.embedding_model import EmbeddingModel

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-5
APPLICATIONS = ("ConvNeXtTiny", "EfficientNetV2B0", "ResNet50")
FLOAT16 = "EfficientNetV2B0"  # is checked with float16 weights as well
LITE0 = ROOT.parent / "shared" / "backbones" / "efficientnet_lite0.keras"


def backbone_builders(scratch: Path) -> dict[str, Callable[[], keras.Model]]:
    """Functions that build a backbone of each family."""

    def build_preset(name: str) -> keras.Model:
        folder = scratch / "presets" / name
        tiny_presets.make_tiny_model(name).save_to_preset(str(folder))
        return load_backbone(str(folder), tiny_presets.SIZE)

    builders = {
        "small": lambda: load_backbone("small", 64),
        "joined": lambda: randomize_vectors(load_backbone("small@48+small+small@96", 64)),
    }
    for name in APPLICATIONS:
        builders[name] = lambda name=name: randomize_vectors(
            load_backbone(name, 64, pretrained=False)
        )
    for name in tiny_presets.CONFIGS:
        builders[name] = lambda name=name: build_preset(name)
    if LITE0.is_file():
        builders["efficientnet_lite0.keras"] = lambda: load_backbone(str(LITE0), 224)
    return builders


def randomize_vectors(backbone: keras.Model) -> keras.Model:
    """Randomizes norms and biases too: fresh ones hide what reads them."""
    rng = np.random.default_rng(0)
    for weight in backbone.weights:
        if weight.path.endswith(("gamma", "moving_variance")):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif len(weight.shape) == 1 and "float" in weight.dtype:
            weight.assign(rng.normal(0, 0.1, weight.shape))
    return backbone


def make_model(backbone: keras.Model) -> EmbeddingModel:
    """An embedding model; over joined backbones it standardizes their features."""
    is_fused = isinstance(backbone, FusedBackbone)
    model = EmbeddingModel(
        backbone,
        image_size=backbone.input_shape[1],
        standardize=is_fused,
        feature_power=0.5 if is_fused else 1.0,
    )
    if model.standardization is not None:
        features = np.random.default_rng(1).normal(0.3, 1, (9, backbone.output_shape[-1]))
        model.standardization.fit(lambda function: np.mean(function(features), axis=0), 9)
    return model


def make_images() -> list[np.ndarray]:
    """Images of odd sizes and contents, `[H, W, 3]` uint8."""
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (1, 3000), (4000, 3000), (32, 32), (64, 64), (375, 500), (224, 224)]
    images = [
        np.kron(rng.integers(0, 256, [8, 8, 3]), np.ones([h // 8 + 1, w // 8 + 1, 1]))[:h, :w]
        for h, w in sizes
    ]
    gray = np.repeat(rng.integers(0, 256, [60, 90, 1]), 3, axis=-1)
    images += [gray, np.zeros([40, 30, 3]), np.full([40, 30, 3], 255)]
    return [image.astype(np.uint8) for image in images]


def check(folder: Path, families: list[str]) -> float:
    """Prints a line for each zip; returns the largest difference."""
    python = environment.python()
    images = make_images()
    np.savez(folder / "images.npz", *images)
    builders, expected = backbone_builders(folder), {}
    for name in families or builders:
        keras.utils.set_random_seed(1)
        backbone = builders[name]()
        model = make_model(backbone)
        for float16 in (False, True) if name == FLOAT16 else (False,):
            path = folder / f"{name}{'-float16' if float16 else ''}.zip"
            write_submission(model, path, float16=float16)
            expected[path] = Embedder.from_pretrained(path).encode(images)
            trained = np.concatenate([model(image[None]) for image in images])
            if not float16 and np.abs(expected[path] - trained).max() > TOLERANCE:
                raise SystemExit(f"{path.stem} does not embed as the model does")
        keras.backend.clear_session()
    subprocess.run([python, ROOT / "tests" / "kaggle" / "scorer.py", folder], check=True)
    max_difference = 0.0
    for path, rows in expected.items():
        with np.load(path.with_suffix(".npz")) as arrays:
            difference = np.abs(arrays["embeddings"] - rows).max()
            version, spread = arrays["version"], np.ptp(rows, axis=0).max()
        size = path.stat().st_size / 1e6
        print(
            f"{path.stem:28} {size:7.1f} MB  TensorFlow {version} differs by at most "
            f"{difference:.1e}, images from each other by {spread:.1e}"
        )
        max_difference = max(max_difference, float(difference))
        if spread < 0.01:
            raise SystemExit(f"{path.stem} embeds all images alike, so this checks nothing")
    return max_difference


def main() -> int:
    try:
        with tempfile.TemporaryDirectory() as folder:
            max_difference = check(Path(folder), sys.argv[1:])
    except environment.UnavailableError as error:
        print(f"NOT CHECKED: {error}", file=sys.stderr)
        return 1
    agrees = max_difference <= TOLERANCE
    print(f"{'agrees' if agrees else 'DOES NOT AGREE'} within {TOLERANCE}: {max_difference:.1e}")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
