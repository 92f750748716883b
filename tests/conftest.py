"""Settings and fixtures shared by all tests."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import hypothesis
import pytest
import tensorflow as tf

# Before anything starts TensorFlow: three devices, for tests of distribution.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 3
)

# A fixed seed and no deadline; the set of loaded modules still adds examples.
hypothesis.settings.register_profile(
    "fixed",
    derandomize=True,
    deadline=None,
    max_examples=50,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("fixed")

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def uned_mini() -> Path:
    """Real images in UnED's layout, beside the checkout; see CONTRIBUTING.md."""
    path = SHARED / "uned_mini"
    if not path.is_dir():
        pytest.skip(f"{path} does not exist: real images are not part of the project")
    return path


@pytest.fixture(scope="session")
def efficientnet_lite0() -> Path:
    """A real ImageNet backbone as one Keras file, beside the checkout."""
    path = SHARED / "backbones" / "efficientnet_lite0.keras"
    if not path.is_file():
        pytest.skip(f"{path} does not exist: real weights are not part of the project")
    return path
