"""Do submissions load in the scorer's TensorFlow 2.6.4, and embed alike? `make check-kaggle`.

    python tests/kaggle/check.py [family ...]

Exports an embedder over each family of backbones (tiny and random ones, and real ones that need
no network), embeds odd and ordinary pictures here and there, and compares.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import environment
import keras
import numpy as np

import universal_embedding
from universal_embedding.export import submission
from universal_embedding.models.backbones import load_backbone
from universal_embedding.models.embedder import Embedder

ROOT = Path(__file__).resolve().parent.parent.parent
TOLERANCE = 1e-5
APPLICATIONS = ("ConvNeXtTiny", "EfficientNetV2B0", "ResNet50")
FLOAT16 = "EfficientNetV2B0"  # is checked with float16 weights as well
LITE0 = ROOT.parent / "shared" / "backbones" / "efficientnet_lite0.keras"


def families(scratch: Path) -> dict[str, Callable[[], keras.Model]]:
    """How to make a backbone of each family."""
    sys.path.append(str(ROOT / "tests" / "models"))
    import tiny_presets

    def preset(name: str) -> keras.Model:
        folder = scratch / "presets" / name
        tiny_presets.tiny(name).save_to_preset(str(folder))
        return load_backbone(str(folder), tiny_presets.SIZE)

    made = {"small": lambda: load_backbone("small", 64)}
    for name in APPLICATIONS:
        made[name] = lambda name=name: shaken(load_backbone(name, 64, pretrained=False))
    for name in tiny_presets.CONFIGS:
        made[name] = lambda name=name: preset(name)
    if LITE0.is_file():
        made["efficientnet_lite0.keras"] = lambda: load_backbone(str(LITE0), 224)
    return made


def shaken(backbone: keras.Model) -> keras.Model:
    """The backbone with vectors (norms, biases) random too: fresh ones hide what reads them."""
    random = np.random.default_rng(0)
    for weight in backbone.weights:
        if weight.path.endswith(("gamma", "moving_variance")):
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
        elif len(weight.shape) == 1 and "float" in weight.dtype:
            weight.assign(random.normal(0, 0.1, weight.shape))
    return backbone


def pictures() -> list[np.ndarray]:
    """Odd sizes and contents, `[H, W, 3]` uint8."""
    random = np.random.default_rng(0)
    sizes = [(1, 1), (1, 3000), (4000, 3000), (32, 32), (64, 64), (375, 500), (224, 224)]
    made = [
        np.kron(random.integers(0, 256, [8, 8, 3]), np.ones([h // 8 + 1, w // 8 + 1, 1]))[:h, :w]
        for h, w in sizes
    ]
    grey = np.repeat(random.integers(0, 256, [60, 90, 1]), 3, axis=-1)
    made += [grey, np.zeros([40, 30, 3]), np.full([40, 30, 3], 255)]
    return [picture.astype(np.uint8) for picture in made]


def check(folder: Path, wanted: list[str]) -> float:
    """Prints a line for each zip; gives the largest difference."""
    python = environment.python()
    images = pictures()
    np.savez(folder / "pictures.npz", *images)
    builders, expected = families(folder), {}
    for name in wanted or builders:
        keras.utils.set_random_seed(1)
        backbone = builders[name]()
        embedder = Embedder(backbone, image_size=backbone.input_shape[1])
        for float16 in (False, True) if name == FLOAT16 else (False,):
            path = folder / f"{name}{'-float16' if float16 else ''}.zip"
            submission.write(embedder, path, float16=float16)
            expected[path] = universal_embedding.load(path)(images)
        keras.backend.clear_session()
    subprocess.run([python, ROOT / "tests" / "kaggle" / "scorer.py", folder], check=True)
    worst = 0.0
    for path, rows in expected.items():
        with np.load(path.with_suffix(".npz")) as found:
            difference = np.abs(found["embeddings"] - rows).max()
            version, spread = found["version"], np.ptp(rows, axis=0).max()
        size = path.stat().st_size / 1e6
        print(
            f"{path.stem:28} {size:7.1f} MB  TensorFlow {version} differs by {difference:.1e} "
            f"at most, pictures among each other by {spread:.1e}"
        )
        worst = max(worst, float(difference))
        if spread < 0.01:
            raise SystemExit(f"{path.stem} gives all pictures one embedding: nothing is checked")
    return worst


def main() -> int:
    try:
        with tempfile.TemporaryDirectory() as folder:
            worst = check(Path(folder), sys.argv[1:])
    except environment.NotHereError as error:
        print(f"NOT CHECKED: {error}", file=sys.stderr)
        return 1
    good = worst <= TOLERANCE
    print(f"{'agrees' if good else 'DOES NOT AGREE'} within {TOLERANCE}: {worst:.1e}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
