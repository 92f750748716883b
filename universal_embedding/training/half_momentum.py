"""First moments of Keras optimizers in bfloat16: half of their memory, arithmetic in float32.

The one state that is commonly kept in 16 bits (`mu_dtype` of optax; "Scaling Vision Transformers",
arXiv 2106.04560). A first moment forgets a tenth (Lion: a hundredth) of itself at each step, its
rounding errors included; bfloat16 rounds by at most 1/256, so round-to-nearest is enough.

Second moments stay in float32. They forget 1/1000 (beta_2 = 0.999), which bfloat16 rounds to
nothing: they would grow and never shrink. Where they do not fit, `adafactor` stores rows and
columns of them.
"""

from typing import Any

import keras
import tensorflow as tf

from universal_embedding.errors import UserError

_DTYPES = ("float32", "bfloat16")
_SLOT = "_momentum"  # ends the names that Keras gives to first moments


def with_momentum_dtype(
    optimizer_class: type[keras.optimizers.Optimizer], dtype: str
) -> type[keras.optimizers.Optimizer]:
    """The optimizer class itself, or one that keeps its first moments in bfloat16.

    Raises:
        UserError: first moments cannot have this type.
    """
    if dtype not in _DTYPES:
        raise UserError(
            f"config.optimizer.momentum_dtype is {dtype!r}; it must be one of {', '.join(_DTYPES)}"
        )
    if dtype == "float32":
        return optimizer_class
    return type(optimizer_class.__name__, (_HalfMomentum, optimizer_class), {})


class _HalfMomentum(keras.optimizers.Optimizer):
    """Mixin, before an optimizer of Keras."""

    def build(self, variables: list[keras.Variable]) -> None:
        super().build(variables)
        if not any(variable.dtype == "bfloat16" for variable in self.variables):
            raise UserError(
                f"config.optimizer.momentum_dtype is 'bfloat16', but {type(self).__name__} keeps "
                "no first moments with these settings; set it to 'float32'"
            )

    def add_variable(
        self, shape: Any, initializer: Any = "zeros", dtype: Any = None, **options: Any
    ) -> keras.Variable:
        if str(options.get("name")).endswith(_SLOT):
            dtype = "bfloat16"
        return super().add_variable(shape, initializer=initializer, dtype=dtype, **options)

    def assign_add(self, variable: keras.Variable, value: tf.Tensor) -> None:
        if keras.backend.standardize_dtype(variable.dtype) == "bfloat16":
            # The base rounds the increment as well, and then adds in bfloat16.
            self.assign(variable, keras.ops.cast(variable, "float32") + value)
        else:
            super().assign_add(variable, value)
