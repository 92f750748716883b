"""From 0..255 to the range a network was trained on."""

import keras


@keras.saving.register_keras_serializable("universal_embedding")
class Normalize(keras.layers.Layer):
    """`x * scale + offset` by channel, channels reversed first if `bgr`; computed in float32.

    Args:
        scale: Three numbers, in the order of the result's channels.
        offset: The same.
        bgr: Whether the network takes blue first.
    """

    def __init__(
        self, scale: list[float], offset: list[float], bgr: bool = False, **kwargs: object
    ) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.scale, self.offset, self.bgr = list(scale), list(offset), bgr

    def call(self, images: keras.KerasTensor) -> keras.KerasTensor:
        """Normalises `[B, H, W, 3]`, 0..255."""
        images = keras.ops.flip(images, axis=-1) if self.bgr else images
        return images * keras.ops.array(self.scale, "float32") + keras.ops.array(
            self.offset, "float32"
        )

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        config = {"scale": self.scale, "offset": self.offset, "bgr": self.bgr}
        return {**super().get_config(), **config}
