"""The steps of Kaggle's scorer, for TensorFlow 2.6.4 under Python 3.9, without this package.

`python scorer.py FOLDER` embeds each image of FOLDER/images.npz with each FOLDER/*.zip, and
writes FOLDER/*.npz.
"""

import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf


def embed(submission, images):
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(submission) as archive:
            archive.extractall(folder)
        model = tf.saved_model.load(folder)
    serve = model.signatures["serving_default"]
    return np.concatenate(
        [serve(tf.constant(image[None]))["embedding_norm"].numpy() for image in images]
    )


def main(folder):
    with np.load(folder / "images.npz") as arrays:
        images = [arrays[name] for name in arrays.files]
    for submission in sorted(folder.glob("*.zip")):
        np.savez(
            submission.with_suffix(".npz"),
            embeddings=embed(submission, images),
            version=tf.__version__,
        )


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    main(Path(sys.argv[1]))
