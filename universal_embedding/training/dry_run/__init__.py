"""Estimates what a run needs on a device that is not at hand: memory, FLOPs, time and disk.

`tracing` builds the run without memory for its weights and traces each stage's training step;
`flops` and `memory` read the traced graph; `estimate` puts the numbers together for one of the
`devices`, and `summary` prints them.
"""
