"""What Kaggle's scorer does, for TensorFlow 2.6.4 and Python 3.9; uses nothing of the package.

python scorer.py submission.zip pictures.npz embeddings.npz
"""

import sys
import tempfile
import zipfile

import numpy as np
import tensorflow as tf


def main(submission, pictures, embeddings):
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(submission) as archive:
            archive.extractall(folder)
        model = tf.saved_model.load(folder)
    serve = model.signatures["serving_default"]
    rows, raw = {}, {}
    with np.load(pictures) as arrays:
        for name in arrays.files:
            outputs = serve(tf.constant(arrays[name][None]))
            rows[name] = outputs["embedding_norm"].numpy()[0]
            raw[name] = outputs["embedding"].numpy()[0]
    np.savez(embeddings, **rows)


main(*sys.argv[1:])
