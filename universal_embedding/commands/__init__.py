"""The verbs of the console script.

Each module has a docstring (its help text), `add_arguments(parser)` and `run(args)`; nothing that
is slow to import is imported before `run`.
"""
