"""A tiny, randomly initialized model of each KerasHub family, for 32-pixel images."""

import keras
import keras_hub
import numpy as np

SIZE = 32
_VIT = {"patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16}
_SHAPE = {"image_shape": (SIZE, SIZE, 3)}
_ENCODER = {**_VIT, **_SHAPE, "intermediate_dim": 32}
_TEXT = {"vocabulary_size": 50, "embedding_dim": 16, "hidden_dim": 16, "num_layers": 1}
_TEXT |= {"num_heads": 2, "intermediate_dim": 32}
_MOBILENET_V5 = {
    "stackwise_block_types": [["er"], ["uir", "uir"]],
    "stackwise_num_blocks": [1, 2],
    "stackwise_num_filters": [[24], [48, 48]],
    "stackwise_strides": [[2], [2, 1]],
    "stackwise_act_layers": [["relu"], ["relu", "relu"]],
    "stackwise_exp_ratios": [[4.0], [6.0, 6.0]],
    "stackwise_se_ratios": [[0.0], [0.0, 0.0]],
    "stackwise_dw_kernel_sizes": [[0], [5, 5]],
    "stackwise_dw_start_kernel_sizes": [[0], [0, 0]],
    "stackwise_dw_end_kernel_sizes": [[0], [0, 0]],
    "stackwise_exp_kernel_sizes": [[3], [0, 0]],
    "stackwise_pw_kernel_sizes": [[1], [0, 0]],
    "stackwise_num_heads": [[0], [0, 0]],
    "stackwise_key_dims": [[0], [0, 0]],
    "stackwise_value_dims": [[0], [0, 0]],
    "stackwise_kv_strides": [[0], [0, 0]],
    "stackwise_use_cpe": [[False], [False, False]],
    "use_msfa": False,
}
_MOBILENET = {
    "stackwise_expansion": [[16], [24]],
    "stackwise_num_blocks": [1, 1],
    "stackwise_num_filters": [[16], [24]],
    "stackwise_kernel_size": [[3], [5]],
    "stackwise_num_strides": [[2], [2]],
    "stackwise_se_ratio": [[None], [0.25]],
    "stackwise_activation": [["relu"], ["hard_swish"]],
    "stackwise_padding": [[1], [2]],
    "output_num_filters": 32,
    "input_num_filters": 16,
    "input_activation": "hard_swish",
    "output_activation": "hard_swish",
    "depthwise_filters": 8,
    "depthwise_stride": 2,
    "depthwise_residual": False,
    "last_layer_filter": 24,
    "squeeze_and_excite": 0.5,
}
_EFFICIENTNET = {
    "stackwise_kernel_sizes": [3, 3],
    "stackwise_num_repeats": [1, 2],
    "stackwise_input_filters": [8, 8],
    "stackwise_output_filters": [8, 16],
    "stackwise_expansion_ratios": [1, 4],
    "stackwise_squeeze_and_excite_ratios": [0.0, 0.25],
    "stackwise_strides": [1, 2],
    "stackwise_block_types": ["fused", "unfused"],
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
}
_HGNET = {
    "depths": [1, 1],
    "embedding_size": 8,
    "hidden_sizes": [16, 32],
    "stem_channels": [3, 8, 8],
    "hidden_act": "relu",
    "use_learnable_affine_block": False,
    "stackwise_stage_filters": [(8, 8, 16, 1, 1, 3), (16, 8, 32, 1, 1, 3)],
    "apply_downsample": [False, True],
    "use_lightweight_conv_block": [False, False],
}
_MIT = {
    "layerwise_depths": [1, 1],
    "num_layers": 2,
    "layerwise_num_heads": [1, 2],
    "layerwise_sr_ratios": [2, 1],
    "max_drop_path_rate": 0.1,
    "layerwise_patch_sizes": [7, 3],
    "layerwise_strides": [4, 2],
    "hidden_dims": [8, 16],
}


def _two_towers(family: str) -> keras.Model:
    models = keras_hub.models
    vision = getattr(models, f"{family}VisionEncoder")(**_ENCODER)
    length = "sequence_length" if family == "SigLIP" else "max_sequence_length"
    text = getattr(models, f"{family}TextEncoder")(**_TEXT, **{length: 8})
    projection = {} if family == "SigLIP" else {"projection_dim": 12}
    return getattr(models, f"{family}Backbone")(vision, text, **projection)


def make_tiny_model(family: str) -> keras.Model:
    """Builds the model; every weight is random, so that no error hides behind a zero or a one."""
    keras.utils.set_random_seed(0)
    if family in ("CLIPBackbone", "SigLIPBackbone", "MetaCLIP2Backbone"):
        model = _two_towers(family.removesuffix("Backbone"))
    else:
        model = getattr(keras_hub.models, family)(**CONFIGS[family])
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.path.endswith("position_ids"):
            weight.assign(np.arange(weight.shape[1])[None])
        elif weight.path.endswith(("gamma", "moving_variance")):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif len(weight.shape) <= 1 or "position" in weight.path:
            weight.assign(rng.normal(0, 0.1, weight.shape))
        elif len(weight.shape) == 4:
            weight.assign(2 * weight)  # convolutions: keeps the signal from fading
    return model


CONFIGS = {
    "CLIPBackbone": {},
    "CLIPVisionEncoder": _ENCODER,
    "MetaCLIP2Backbone": {},
    "MetaCLIP2VisionEncoder": _ENCODER,
    "SigLIPBackbone": {},
    "SigLIPVisionEncoder": _ENCODER,
    "ViTBackbone": {**_VIT, **_SHAPE, "mlp_dim": 32},
    "DeiTBackbone": {**_VIT, **_SHAPE, "intermediate_dim": 32},
    "DINOV2Backbone": {
        **_ENCODER,
        "num_register_tokens": 2,
        "position_embedding_shape": (SIZE, SIZE, 3),
    },
    "DINOV3Backbone": {**_ENCODER, "num_register_tokens": 2},
    "CSPNetBackbone": {
        "stem_filters": 8,
        "stem_kernel_size": 3,
        "stem_strides": 1,
        "stackwise_depth": [1, 1],
        "stackwise_strides": [1, 2],
        "stackwise_num_filters": [8, 16],
        "stage_type": "dark",
        "block_type": "dark_block",
    },
    "DenseNetBackbone": {"stackwise_num_repeats": [1, 2], "growth_rate": 8},
    "EfficientNetBackbone": _EFFICIENTNET,
    "HGNetV2Backbone": _HGNET,
    "MiTBackbone": {**_MIT, **_SHAPE},
    "MobileNetBackbone": _MOBILENET,
    "MobileNetV5Backbone": _MOBILENET_V5,
    "ResNetBackbone": {
        "input_conv_filters": [64],
        "input_conv_kernel_sizes": [7],
        "stackwise_num_filters": [64, 128],
        "stackwise_num_blocks": [1, 1],
        "stackwise_num_strides": [1, 2],
        "block_type": "basic_block",
    },
    "SwinTransformerBackbone": {
        **_SHAPE,
        "embed_dim": 8,
        "depths": (1, 2),
        "num_heads": (1, 2),
        "window_size": 4,
    },
    "VGGBackbone": {"stackwise_num_repeats": [1, 1], "stackwise_num_filters": [8, 16]},
    "XceptionBackbone": {
        "stackwise_conv_filters": [[8, 8], [16, 16], [16, 16]],
        "stackwise_pooling": [True, True, False],
    },
}
