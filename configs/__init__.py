"""Training recipes, installed as `universal_embedding.configs`.

Each module has `get_config(argument="")`, which overrides `training.config.base_config`. Its
docstring says what the recipe trains, on what data, how long it takes, how good the result is, and
the command. The argument is a list of name=value; every recipe takes `runlocal=true`, a smoke test
of a few steps with the `small` network.
"""
