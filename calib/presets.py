"""Preprocessing by name: statistics of pixel values, and what torchvision's and timm's published weights expect.

Sources: `torchvision.models.*_Weights.*.transforms()` (0.29), timm's `pretrained_cfg` (1.0: `resize` is input size /
crop_pct, rounded down), and Keras' `imagenet_utils.preprocess_input`.
"""

from __future__ import annotations

from typing import Dict, Optional, Tuple

Numbers = Tuple[float, Tuple[float, ...], Tuple[float, ...]]
"""What a pixel is divided by, then mean and standard deviation, red, green, blue."""

IMAGENET: Numbers = (255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

NUMBERS: Dict[str, Numbers] = {
    "imagenet": IMAGENET,
    # Over the 50,000 training images; the deviation is that of all pixels.
    "cifar": (255.0, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    # Keras' mode `tf` (ResNet50V2 and its kin): x / 127.5 - 1.
    "tf": (127.5, (1.0,), (1.0,)),
    # Keras' mode `caffe` (ResNet50, ResNet101, ResNet152, VGG): of 0..255, and the model takes blue, green, red.
    "caffe": (1.0, (123.68, 116.779, 103.939), (1.0,)),
}

_GEOMETRY: Dict[str, str] = {
    "256": "resize=256,crop=224,interp=bilinear,imagenet",
    "232": "resize=232,crop=224,interp=bilinear,imagenet",
    "bicubic": "resize=256,crop=224,interp=bicubic,imagenet",
    "0.95": "resize=235,crop=224,interp=bicubic,imagenet",
    "160": "resize=168,crop=160,interp=bicubic,imagenet",
    "176": "resize=201,crop=176,interp=bilinear,imagenet",
    "a1h": "resize=195,crop=176,interp=bicubic,imagenet",
    "half": "resize=248,crop=224,interp=bicubic,unit,mean=0.5,0.5,0.5;std=0.5,0.5,0.5",
    "half50": "resize=235,crop=224,interp=bicubic,unit,mean=0.5,0.5,0.5;std=0.5,0.5,0.5",
}

_TORCHVISION: Dict[str, str] = {
    "resnet18": "256",
    "resnet34": "256",
    "resnet50": "256 232",
    "resnet101": "256 232",
    "resnet152": "256 232",
    "resnext50_32x4d": "256 232",
    "resnext101_32x8d": "256 232",
    "resnext101_64x4d": "232",
    "wide_resnet50_2": "256 232",
    "wide_resnet101_2": "256 232",
}
"""Geometry of IMAGENET1K_V1, then of IMAGENET1K_V2 where there is one; the last is DEFAULT."""

_TIMM: Dict[str, str] = {
    "a1_in1k": "0.95",
    "a1h_in1k": "0.95",
    "a2_in1k": "0.95",
    "a3_in1k": "160",
    "b1k_in1k": "0.95",
    "b2k_in1k": "0.95",
    "c1_in1k": "0.95",
    "c2_in1k": "0.95",
    "d_in1k": "0.95",
    "am_in1k": "bicubic",
    "bt_in1k": "bicubic",
    "ra_in1k": "bicubic",
    "ram_in1k": "bicubic",
    "racm_in1k": "bicubic",
    "gluon_in1k": "bicubic",
    "tv_in1k": "256",
    "tv2_in1k": "176",
    "fb_ssl_yfcc100m_ft_in1k": "256",
    "fb_swsl_ig1b_ft_in1k": "256",
    "fb_wsl_ig1b_ft_in1k": "256",
    "ra4_e3600_r224_in1k": "half",
}
"""By the tag after the dot, for the architectures below."""

_TIMM_DEFAULT: Dict[str, str] = {
    "resnet18": "a1_in1k",
    "resnet34": "a1_in1k",
    "resnet50": "a1_in1k",
    "resnet101": "a1h_in1k",
    "resnet152": "a1h_in1k",
    "resnext50_32x4d": "a1h_in1k",
    "wide_resnet50_2": "racm_in1k",
    "resnext101_32x8d": "fb_wsl_ig1b_ft_in1k",
}

_TIMM_EXCEPTIONS: Dict[str, str] = {
    "resnet50.a1h_in1k": "a1h",
    "resnet18d.ra2_in1k": "bicubic",
    "resnet34d.ra2_in1k": "bicubic",
    "resnet50d.ra2_in1k": "bicubic",
    "resnet26.bt_in1k": "bicubic",
    "resnet26d.bt_in1k": "bicubic",
    "resnet50d.gluon_in1k": "bicubic",
    "resnet101d.gluon_in1k": "bicubic",
    "resnet152d.gluon_in1k": "bicubic",
    "resnet50d.a1_in1k": "0.95",
    "resnet50d.a2_in1k": "0.95",
    "resnet50d.a3_in1k": "160",
    "resnet18d.ra4_e3600_r224_in1k": "half",
    "resnet50d.ra4_e3600_r224_in1k": "half50",
}


def find(name: str) -> Optional[str]:
    """The preprocessing, written out, of published weights; None where the name is not known.

    Args:
        name: torchvision's (`resnet50`, its DEFAULT weights; `resnet50.IMAGENET1K_V1`;
            `ResNet50_Weights.IMAGENET1K_V1`) or timm's (`resnet34.a1_in1k`; `timm/resnet34`, its default weights).
    """
    words = name.strip().lower()
    timm = words.startswith("timm/")
    words = words[len("timm/") :] if timm else words
    architecture, _, tag = words.partition(".")
    if timm and not tag:
        tag = _TIMM_DEFAULT.get(architecture, "")
    key = _TIMM_EXCEPTIONS.get(f"{architecture}.{tag}")
    if key is None and architecture in _TIMM_DEFAULT:
        key = _TIMM.get(tag)
    if key is None and not timm:
        key = _torchvision(architecture, tag)
    return None if key is None else _GEOMETRY[key]


def _torchvision(architecture: str, tag: str) -> Optional[str]:
    if architecture.endswith("_weights"):
        # Weights classes drop underscores in part: Wide_ResNet50_2_Weights, ResNeXt50_32X4D_Weights.
        architecture = architecture[: -len("_weights")]
    known = _TORCHVISION.get(architecture, "").split()
    if not known:
        return None
    if tag in ("", "default"):
        return known[-1]
    if tag == "imagenet1k_v1":
        return known[0]
    if tag == "imagenet1k_v2" and len(known) == 2:
        return known[1]
    return None
