"""What Kaggle's scorer does, for TensorFlow 2.6.4 under Python 3.9; uses nothing of the package.

`python scorer.py FOLDER` embeds each picture of FOLDER/pictures.npz with each FOLDER/*.zip, and
writes FOLDER/*.npz.
"""

import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf


def embed(submission, pictures):
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(submission) as archive:
            archive.extractall(folder)
        model = tf.saved_model.load(folder)
    serve = model.signatures["serving_default"]
    return np.concatenate(
        [serve(tf.constant(image[None]))["embedding_norm"].numpy() for image in pictures]
    )


def main(folder):
    with np.load(folder / "pictures.npz") as arrays:
        pictures = [arrays[name] for name in arrays.files]
    for submission in sorted(folder.glob("*.zip")):
        np.savez(
            submission.with_suffix(".npz"),
            embeddings=embed(submission, pictures),
            version=tf.__version__,
        )


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    main(Path(sys.argv[1]))
