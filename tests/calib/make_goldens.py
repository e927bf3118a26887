"""Write goldens.npz: what torchvision, timm and Keras make of fixed images, with their own code.

Run it where they are installed (torchvision 0.29, timm 1.0 and Keras 3.15 made the file that is kept):

    python tests/calib/make_goldens.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import numpy as np

GOLDENS = Path(__file__).with_name("goldens.npz")

GEOMETRIES = {
    "resize=24,interp=nearest": ((24,), None),
    "resize=24,interp=bilinear": ((24,), None),
    "resize=24,interp=bicubic": ((24,), None),
    "resize=24,interp=lanczos": ((24,), None),
    "resize=90,interp=bicubic": ((90,), None),
    "resize=21x34,interp=bilinear": ((21, 34), None),
    "resize=29,crop=22,interp=bilinear": ((29,), (22, 22)),
    "resize=30,crop=25x19,interp=bicubic": ((30,), (25, 19)),
    "crop=17x24": (None, (17, 24)),
}
"""Text of ours, and the arguments of torchvision's Resize and CenterCrop."""

WEIGHTS = {
    "resnet34": "ResNet34_Weights.IMAGENET1K_V1",
    "resnet50": "ResNet50_Weights.IMAGENET1K_V2",
    "resnet50.IMAGENET1K_V1": "ResNet50_Weights.IMAGENET1K_V1",
}

TIMM = (
    "resnet34.a1_in1k",
    "resnet50.a3_in1k",
    "resnet50.tv2_in1k",
    "resnet50.a1h_in1k",
    "resnet34.ra4_e3600_r224_in1k",
)

STEP = 7
"""Of large results every seventh pixel is kept."""


def image(height: int, width: int) -> Any:
    """A fixed uint8 image (H, W, 3): slopes, edges and noise, from integers only."""
    y, x, c = np.mgrid[0:height, 0:width, 0:3]
    noise = (y * 7919 + x * 104729 + c * 1299709 + y * x * 31) % 97
    return ((y * (3 + c) + x * (5 - c) + noise + 90 * ((x // 6 + y // 9) % 2)) % 256).astype(np.uint8)


IMAGES = {"wide": image(41, 57), "high": image(57, 38), "large": image(301, 398)}


def from_torchvision() -> Dict[str, Any]:
    """Geometry on its own, as uint8, and the transforms of published weights, as float32 (C, H, W)."""
    import torchvision.models
    from PIL import Image
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    out = {}
    for text, (resize, crop) in GEOMETRIES.items():
        mode = InterpolationMode(text.partition("interp=")[2] or "bilinear")
        for name in ("wide", "high"):
            made = Image.fromarray(IMAGES[name])
            if resize is not None:
                made = Resize(resize[0] if len(resize) == 1 else resize, mode)(made)
            if crop is not None:
                made = CenterCrop(crop)(made)
            out[f"geometry/{text}/{name}"] = np.asarray(made)
    for text, name in WEIGHTS.items():
        kind, _, version = name.partition(".")
        transform = getattr(getattr(torchvision.models, kind), version).transforms()
        out[f"preset/{text}"] = transform(Image.fromarray(IMAGES["large"])).numpy()[:, ::STEP, ::STEP]
    return out


def from_timm() -> Dict[str, Any]:
    """The evaluation transforms of published weights, float32 (C, H, W)."""
    import timm
    from PIL import Image
    from timm.data import create_transform, resolve_data_config

    out = {}
    for name in TIMM:
        transform = create_transform(**resolve_data_config(timm.get_pretrained_cfg(name).to_dict()))
        out[f"preset/{name}"] = transform(Image.fromarray(IMAGES["large"])).numpy()[:, ::STEP, ::STEP]
    return out


def from_keras() -> Dict[str, Any]:
    """`preprocess_input` in its three modes, float32 (H, W, C)."""
    from keras.applications import imagenet_utils

    source = IMAGES["wide"].astype(np.float32)
    out = {}
    for ours, mode in (("caffe", "caffe"), ("tf", "tf"), ("imagenet", "torch")):
        made = imagenet_utils.preprocess_input(source.copy(), data_format="channels_last", mode=mode)
        out[f"keras/{ours}"] = np.asarray(made, np.float32)
    return out


if __name__ == "__main__":
    np.savez_compressed(GOLDENS, **from_torchvision(), **from_timm(), **from_keras())
    print(f"{GOLDENS.name}: {GOLDENS.stat().st_size} bytes")
