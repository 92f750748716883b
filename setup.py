"""Packaging. The versions were checked together on Python 3.11; see the README's dependencies."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "universal_embedding/__init__.py").read_text()
)[1]

REQUIRES = [
    "absl-py>=2.1,<3",
    "array-record>=0.8,<0.9",
    "keras>=3.15,<3.16",
    "keras-hub>=0.32,<0.33",
    "matplotlib>=3.8,<4",
    "ml-collections>=1.1,<1.2",
    "numpy>=1.26,<3",
    "pillow>=11,<14",
    "psutil>=6,<8",
    "scikit-learn>=1.5,<2",
    'scann[tf]>=1.4.2,<1.5; sys_platform == "linux"',
    "tensorflow-datasets>=4.9.10,<4.10",
    "tqdm>=4.66,<5",
]
EXTRAS = {
    # `pip install .[cpu]`; on a Cloud TPU `.[tpu]`, on an NVIDIA GPU `.[gpu]`.
    "cpu": ["tensorflow>=2.20,<2.21"],
    "gpu": ["tensorflow[and-cuda]>=2.20,<2.21"],
    "tpu": ["tensorflow-tpu>=2.20,<2.21"],
    "beam": ["apache-beam>=2.77,<3"],
    "serve": ["starlette>=1,<2", "uvicorn>=0.30,<1"],
    "test": [
        "httpx>=0.27,<1",
        "hypothesis>=6.100,<7",
        "ipykernel>=6,<8",
        "nbclient>=0.10,<1",
        "pytest>=8,<10",
        "pytest-xdist>=3.6,<4",
        "ruff>=0.17,<0.18",  # its formatting differs between versions
        "selenium>=4.20,<5",
    ],
}
EXTRAS["benchmarks"] = ["faiss-cpu>=1.9,<2", "hnswlib>=0.8,<1"]

setup(
    name="universal-embedding",
    version=VERSION,
    description="One image embedding for every domain: training, export and retrieval evaluation",
    long_description=(HERE / "README.md").read_text() if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["universal_embedding", "universal_embedding.*"]),
    package_data={"universal_embedding.gallery": ["page/*"]},
    python_requires=">=3.11,<3.14",
    install_requires=REQUIRES,
    extras_require=EXTRAS,
)
