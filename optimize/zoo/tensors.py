"""The zoo's networks that are no classifiers (`--task tensors`), in PyTorch; light: it imports no framework."""

from __future__ import annotations

from typing import Dict, NamedTuple, Tuple


class Network(NamedTuple):
    """What is known of a network without making it."""

    module: str
    """Of this package: holds the factory of its name, and says what it is and after whom."""
    input_shape: Tuple[int, int, int]
    """Planes, height and width that its description has; any size works that the halvings divide."""
    parameters: int


NETWORKS: Dict[str, Network] = {
    "ssd_mobilenet_v2": Network("torch_ssd", (3, 300, 300), 16_837_567),
    "ssd_resnet18": Network("torch_ssd", (3, 300, 300), 14_048_310),
    "yolov3_tiny": Network("torch_yolo", (3, 416, 416), 8_852_366),
    "openpose": Network("torch_openpose", (3, 368, 368), 52_311_446),
    "openpose_two_stages": Network("torch_openpose", (3, 256, 456), 17_172_146),
    "unet": Network("torch_unet", (1, 512, 512), 31_030_658),
    "unet16": Network("torch_unet", (1, 512, 512), 1_940_817),
    "super_resolution": Network("torch_superresolution", (1, 224, 224), 59_657),
}
"""By the name for `--factory` and `optimize zoo make`."""
