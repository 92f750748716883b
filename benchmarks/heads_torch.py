"""The rival of heads.py, under an interpreter that has torch: a step for each line of input."""

import json
import sys
import time

import torch
from pytorch_metric_learning.losses import ArcFaceLoss


def main(classes, dimension, batch):
    torch.manual_seed(0)
    loss = ArcFaceLoss(classes, dimension, margin=28.6, scale=30)  # degrees: 0.5 rad
    embeddings = torch.randn(batch, dimension, requires_grad=True)
    labels = torch.randint(0, classes, (batch,))
    version = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    print(json.dumps({"version": version}), flush=True)
    for _ in sys.stdin:
        loss.zero_grad()
        start = time.perf_counter()
        loss(embeddings, labels).backward()
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


main(*map(int, sys.argv[1:]))
