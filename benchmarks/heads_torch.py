"""Timing worker of heads.py for pytorch-metric-learning; takes one step per line of its input.

Run by heads.py under an interpreter that has PyTorch: heads_torch.py NUM_CLASSES BATCH_SIZE DIM.
"""

import json
import sys
import time

import torch
from pytorch_metric_learning.losses import ArcFaceLoss


def main(num_classes, batch_size, dim):
    torch.manual_seed(0)
    loss_fn = ArcFaceLoss(num_classes, dim, margin=28.6, scale=30)  # degrees: 0.5 rad
    embeddings = torch.randn(batch_size, dim, requires_grad=True)
    labels = torch.randint(0, num_classes, (batch_size,))
    version = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    print(json.dumps({"version": version}), flush=True)
    for _ in sys.stdin:
        loss_fn.zero_grad()
        start = time.perf_counter()
        loss_fn(embeddings, labels).backward()
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


main(*map(int, sys.argv[1:]))
