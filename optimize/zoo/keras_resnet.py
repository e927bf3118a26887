"""ResNets as plain functional Keras models, for Keras 2 and 3: standard layers only, nothing custom to be named.

The arithmetic is torchvision's (explicit zero padding, epsilon 1e-5, stride in the 3x3 convolution), so that weights
can be shared with `torch_resnet`; the classifier ends in a softmax, as Keras models do.
"""

from __future__ import annotations

from typing import Any, Dict

import numpy as np
import numpy.typing as npt

from optimize.zoo.shapes import WIDTHS, find


def build(
    keras: Any, name: str, stem: str = "imagenet", classes: int = 10, size: int = 32, quiet_blocks: bool = False
) -> Any:
    """Make a model with random weights.

    Args:
        keras: The Keras module, of either generation.
        name: One of `shapes.NAMES`.
        stem: One of `shapes.STEMS`.
        classes: Classes.
        size: Height and width of the images, pixels.
        quiet_blocks: Begin each block's last normalisation at 0, so that blocks begin as the identity: trains sooner.

    Returns:
        The model: (N, size, size, 3) float32 to (N, classes) probabilities.

    Raises:
        UsageError: No such model or stem.
    """
    shape = find(name, stem)
    layers = keras.layers
    start = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")

    def conv(x: Any, filters: int, side: int, stride: int, label: str, norm: str, gamma: str = "ones") -> Any:
        if side > 1 and stride > 1:
            x = layers.ZeroPadding2D(side // 2, name=f"{label}_pad")(x)
        padding = "same" if stride == 1 else "valid"
        x = layers.Conv2D(
            filters, side, stride, padding, use_bias=False, kernel_initializer=_copy(keras, start), name=label
        )(x)
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, gamma_initializer=gamma, name=norm)(x)

    def block(x: Any, width: int, stride: int, label: str) -> Any:
        out = width * shape.expansion
        if shape.bottleneck:
            steps = [(width, 1, 1), (width, 3, stride), (out, 1, 1)]
        else:
            steps = [(width, 3, stride), (width, 3, 1)]
        y = x
        for number, (filters, side, step) in enumerate(steps, 1):
            last = number == len(steps)
            gamma = "zeros" if last and quiet_blocks else "ones"
            y = conv(y, filters, side, step, f"{label}_conv{number}", f"{label}_bn{number}", gamma)
            if not last:
                y = layers.ReLU(name=f"{label}_relu{number}")(y)
        if stride != 1 or x.shape[-1] != out:
            x = conv(x, out, 1, stride, f"{label}_downsample_0", f"{label}_downsample_1")
        return layers.ReLU(name=f"{label}_relu")(layers.Add(name=f"{label}_add")([y, x]))

    image = layers.Input((size, size, 3), name="image")
    if stem == "imagenet":
        x = layers.ReLU(name="relu")(conv(image, 64, 7, 2, "conv1", "bn1"))
        x = layers.MaxPooling2D(3, 2, name="maxpool")(layers.ZeroPadding2D(1, name="maxpool_pad")(x))
    else:
        x = layers.ReLU(name="relu")(conv(image, 64, 3, 1, "conv1", "bn1"))
    for stage, (width, count) in enumerate(zip(WIDTHS, shape.blocks), 1):
        for index in range(count):
            x = block(x, width, 2 if index == 0 and stage > 1 else 1, f"layer{stage}_{index}")
    x = layers.GlobalAveragePooling2D(name="avgpool")(x)
    return keras.Model(image, layers.Dense(classes, activation="softmax", name="fc")(x), name=name)


def _copy(keras: Any, initializer: Any) -> Any:
    """One initializer a layer: Keras warns that a shared one gives each layer the same numbers."""
    return type(initializer).from_config(initializer.get_config())


def load_torchvision(model: Any, state: Dict[str, npt.NDArray[Any]]) -> None:
    """Copy the tensors of a torchvision state_dict into a model of `build`.

    Args:
        model: Of the same name, stem and classes.
        state: NumPy arrays by torchvision's names.
    """
    for layer in model.layers:
        if not layer.weights:
            continue
        key = layer.name.replace("_downsample_", ".downsample.").replace("_", ".")
        weight = np.asarray(state[key + ".weight"])
        if layer.name == "fc":
            layer.set_weights([weight.T, np.asarray(state["fc.bias"])])
        elif weight.ndim == 4:
            layer.set_weights([weight.transpose(2, 3, 1, 0)])
        else:
            layer.set_weights(
                [weight, *(np.asarray(state[f"{key}.{n}"]) for n in ("bias", "running_mean", "running_var"))]
            )
