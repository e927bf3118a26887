"""What a model was trained on, as text: the `--preprocess` grammar, and its exact arithmetic on uint8 images.

The geometry matches torchvision's transforms on PIL images (timm's too, which are built of them): Pillow's antialiased
resampling, the shorter side for `resize=N`, the centre for `crop`. TensorFlow's `tf.image.resize` and
`image_dataset_from_directory` sample without antialiasing: what they make of a photograph differs, and is not offered.
The numbers match torchvision's `ToTensor` and `Normalize` and Keras' `preprocess_input`: float32, one rounding a step.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, replace
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import numpy.typing as npt

from calib.presets import NUMBERS, find
from engines.errors import DamagedError, DataError, UsageError

GRAMMAR = (
    "raw | unit | imagenet | cifar | caffe | tf | mean=a,b,c;std=a,b,c, after resize=N|HxW, crop=N|HxW, "
    "interp=bilinear|bicubic|nearest|lanczos, order=rgb|bgr; or a torchvision or timm name such as resnet50"
)

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")

_LARGEST = 16384
"""Largest side asked for, pixels: a slip of the pen does not fill the memory."""

Images = Union["npt.NDArray[Any]", Sequence["npt.NDArray[Any]"]]
"""uint8 images: one array (N, H, W, C), or a sequence of (H, W, C) whose sizes may differ."""


@dataclass(frozen=True)
class Preprocess:
    """How uint8 images become a model's float32 input: geometry, channel order, then (x / scale - mean) / std.

    Attributes:
        text: As the user wrote it, without spaces; `parse(text)` gives the same again.
        resize: Shorter side in pixels, or (height, width), or None.
        crop: Centre crop (height, width) in pixels, or None.
        crop_first: Crop, then resize; else resize, then crop.
        interp: One of `INTERPOLATIONS`.
        order: `rgb` or `bgr`: the channels as the model gets them.
        scale: What a pixel is divided by: 1, 127.5 or 255.
        mean, std: After the division, per channel as the model gets them; one value stands for all channels.
        inferred: Nobody said so; it was assumed, or chosen by accuracy.
    """

    text: str
    resize: Union[int, Tuple[int, int], None] = None
    crop: Optional[Tuple[int, int]] = None
    crop_first: bool = False
    interp: str = "bilinear"
    order: str = "rgb"
    scale: float = 255.0
    mean: Tuple[float, ...] = (0.0,)
    std: Tuple[float, ...] = (1.0,)
    inferred: bool = False

    def to_json(self) -> Dict[str, Any]:
        """As plain JSON."""
        value = asdict(self)
        for name in ("resize", "crop", "mean", "std"):
            if isinstance(value[name], tuple):
                value[name] = list(value[name])
        return value

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Preprocess:
        """Read what `to_json` wrote; empty means the default (`unit`, inferred), unknown fields are ignored.

        Raises:
            DamagedError: A field is of another type or out of range.
        """
        if not value:
            return replace(parse("unit"), inferred=True)
        known = {key: value[key] for key in Preprocess.__dataclass_fields__ if key in value}
        try:
            for name in ("crop", "resize"):
                if isinstance(known.get(name), (list, tuple)):
                    height, width = (int(n) for n in known[name])
                    known[name] = (height, width)
            if isinstance(known.get("resize"), (str, float)):
                raise ValueError(f"resize {known['resize']!r}")
            for name in ("mean", "std"):
                if name in known:
                    known[name] = tuple(float(n) for n in known[name])
            pre = Preprocess(**known)
            # The grammar is the check: whatever parse() would not give is refused.
            if replace(parse(describe(pre)), text=pre.text, inferred=bool(pre.inferred)) != pre:
                raise ValueError("a field that the grammar cannot give")
        except (KeyError, TypeError, ValueError, OverflowError, UsageError) as error:
            raise DamagedError(f"not a preprocessing: {error}") from None
        return pre


def parse(text: str) -> Preprocess:
    """Read the text of `--preprocess`, steps from left to right.

    `mean=…;std=…` follows `unit` (x/255) or `raw` where one is written before it; else values above 1 tell that they
    are meant for 0..255, and others for 0..1 as torchvision's are. `imagenet` and `cifar` keep each mean with its
    colour after `order=bgr`; numbers written out belong to the channels in the order that the model gets. Geometry
    alone means `unit`.

    Raises:
        UsageError: Anything that is not in the grammar, with the grammar as the hint.
    """
    compact = re.sub(r"\s+", "", text)
    steps = _split(compact)
    if len(steps) == 1:
        preset = find(steps[0])
        if preset is not None:
            return replace(parse(preset), text=compact)
    found: Dict[str, Any] = {"text": compact}
    numbers: Dict[str, Any] = {}
    for step in steps:
        key, _, value = step.partition("=")
        if key in _SETTINGS:
            if numbers:
                raise _bad(text, f"{key} stands after the numbers; geometry and order come first")
            if key in found:
                raise _bad(text, f"{key} is there twice")
            found[key] = _SETTINGS[key](step, value, text)
            if key == "resize" and "crop" in found:
                found["crop_first"] = True
        else:
            if step.lower() == "caffe" and found.setdefault("order", "bgr") != "bgr":
                raise _bad(text, "caffe is BGR")
            _number_step(step, found.get("order", "rgb"), numbers, text)
    found.update(_numbers(numbers))
    return Preprocess(**found)


def _split(text: str) -> List[str]:
    """Steps of the text: commas and semicolons part them, but a bare number goes on with the list before it."""
    steps: List[str] = []
    for item in re.split(r"[,;]", text):
        if steps and _number(item) is not None and "=" in steps[-1]:
            steps[-1] += "," + item
        else:
            steps.append(item if "=" not in item else item.partition("=")[0].lower() + "=" + item.partition("=")[2])
    return steps


def _number(text: str) -> Optional[float]:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _bad(text: str, why: str) -> UsageError:
    return UsageError(f"--preprocess {text!r}: {why}", f"write {GRAMMAR}")


def _size(step: str, value: str, text: str) -> Tuple[int, int]:
    match = re.fullmatch(r"([0-9]+)(?:[xX]([0-9]+))?", value)
    if match is None:
        raise _bad(text, f"{step!r} is not a size: N or HxW in pixels")
    size = (int(match.group(1)), int(match.group(2) or match.group(1)))
    if not all(1 <= n <= _LARGEST for n in size):
        raise _bad(text, f"{step!r}: a side is 1 to {_LARGEST} pixels")
    return size


def _resize(step: str, value: str, text: str) -> Union[int, Tuple[int, int]]:
    size = _size(step, value, text)
    return size if "x" in value.lower() else size[0]


def _interp(step: str, value: str, text: str) -> str:
    if value.lower() not in INTERPOLATIONS:
        raise _bad(text, f"{step!r}: one of {', '.join(INTERPOLATIONS)}")
    return value.lower()


def _order(step: str, value: str, text: str) -> str:
    if value.lower() not in ("rgb", "bgr"):
        raise _bad(text, f"{step!r}: rgb or bgr")
    return value.lower()


_SETTINGS = {"resize": _resize, "crop": _size, "interp": _interp, "order": _order}


def _number_step(step: str, order: str, numbers: Dict[str, Any], text: str) -> None:
    """Take one of the steps that say what is done with the pixel values into `numbers`."""
    key, _, value = step.partition("=")
    if key in ("mean", "std"):
        if key in numbers:
            raise _bad(text, f"{key} is there twice")
        values = [_number(item) for item in value.split(",")]
        if None in values or len(values) not in (1, 3):
            raise _bad(text, f"{step!r}: one number, or three")
        if key == "std" and not all(v and v > 0 for v in values):
            raise _bad(text, f"{step!r}: a standard deviation is above 0")
        numbers[key] = tuple(values)
        return
    if numbers:
        raise _bad(text, f"{step!r} after {'mean=' if 'mean' in numbers else 'other'} numbers")
    name = step.lower()
    if name in ("raw", "unit"):
        numbers["scale"] = 1.0 if name == "raw" else 255.0
    elif name in NUMBERS:
        scale, mean, std = NUMBERS[name]
        turn = -1 if order == "bgr" else 1
        numbers.update(scale=scale, mean=mean[::turn], std=std[::turn])
    elif find(step) is not None:
        raise _bad(text, f"{step!r} is a whole preprocessing, with geometry of its own; write it alone")
    else:
        raise _bad(text, f"what is {step!r}?")


def _numbers(numbers: Dict[str, Any]) -> Dict[str, Any]:
    """Scale, mean and std, with what was left unsaid filled in."""
    mean, std = numbers.get("mean", (0.0,)), numbers.get("std", (1.0,))
    large = any(abs(v) > 1 for v in (*mean, *std))
    return {"scale": numbers.get("scale", 1.0 if large else 255.0), "mean": mean, "std": std}


def describe(pre: Preprocess) -> str:
    """The preprocessing written out in full, presets resolved: `parse` of it does the same."""
    steps: List[str] = []
    if pre.resize is not None:
        resize = pre.resize
        steps.append(f"resize={resize}" if isinstance(resize, int) else f"resize={resize[0]}x{resize[1]}")
    if pre.crop is not None:
        steps.insert(0 if pre.crop_first else len(steps), f"crop={pre.crop[0]}x{pre.crop[1]}")
    if pre.resize is not None or pre.interp != "bilinear":
        steps.append(f"interp={pre.interp}")
    if pre.order != "rgb":
        steps.append(f"order={pre.order}")
    if pre.scale == 127.5:
        # Only `tf` divides by 127.5, and it takes 1 away.
        if pre.mean != (1.0,) or pre.std != (1.0,):
            raise ValueError("a scale of 127.5 with other numbers than those of `tf`")
        return ",".join([*steps, "tf"])
    if pre.scale not in (1.0, 255.0):
        raise ValueError(f"a scale of {pre.scale}")
    steps.append("raw" if pre.scale == 1.0 else "unit")
    if pre.mean != (0.0,) or pre.std != (1.0,):
        mean, std = (",".join(repr(v) for v in values) for values in (pre.mean, pre.std))
        steps.append(f"mean={mean};std={std}")
    return ",".join(steps)


def differ(one: Optional[Mapping[str, Any]], other: Optional[Mapping[str, Any]]) -> str:
    """How two preprocessings, as manifests and configurations have them, make other numbers of an image, as
    `ONE, not OTHER`; empty where they make the same of it, but for rounding.

    Raises:
        DamagedError: See `Preprocess.from_json`.
    """
    first, second = Preprocess.from_json(one or {}), Preprocess.from_json(other or {})
    same = all(getattr(first, name) == getattr(second, name) for name in ("resize", "crop", "crop_first", "order"))
    if first.resize is not None:
        same = same and first.interp == second.interp
    ends = np.array([[[[0] * 3, [255] * 3]]], np.uint8)  # what lies between them lies on a line
    made, wanted = (apply(replace(pre, resize=None, crop=None), ends, "NHWC") for pre in (first, second))
    if same and np.allclose(made, wanted, rtol=1e-4, atol=1e-4):
        return ""
    return f"{describe(first)}, not {describe(second)}"


def resized(size: Tuple[int, int], resize: Union[int, Tuple[int, int]]) -> Tuple[int, int]:
    """Height and width after `resize`: a number is the shorter side; the longer is rounded down."""
    if not isinstance(resize, int):
        return resize
    height, width = size
    if height <= width:
        return resize, int(resize * width / height)
    return int(resize * height / width), resize


def geometry(pre: Preprocess, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Resize and crop one uint8 image (H, W, C).

    Raises:
        DataError: The crop is larger than the image.
    """
    steps = [_do_resize, _do_crop]
    for step in reversed(steps) if pre.crop_first else steps:
        image = step(pre, image)
    return image


def _do_resize(pre: Preprocess, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    from PIL import Image

    if pre.resize is None:
        return image
    height, width = resized((image.shape[0], image.shape[1]), pre.resize)
    if (height, width) == image.shape[:2]:
        return image
    grey = image.shape[2] == 1
    source = Image.fromarray(np.ascontiguousarray(image[:, :, 0] if grey else image))
    made = np.asarray(source.resize((width, height), getattr(Image, pre.interp.upper())))
    return made[:, :, None] if grey else made


def _do_crop(pre: Preprocess, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if pre.crop is None:
        return image
    (height, width), (h, w) = image.shape[:2], pre.crop
    if h > height or w > width:
        raise DataError(
            f"crop={h}x{w} is larger than an image of {height}x{width}",
            f"resize before it: --preprocess resize={max(h, w)},crop={h}x{w},…",
        )
    # torchvision's CenterCrop rounds the offset half to even, as Python's round does.
    top, left = round((height - h) / 2.0), round((width - w) / 2.0)
    return image[top : top + h, left : left + w]


def apply(pre: Preprocess, images: Images, layout: str, size: Optional[Tuple[int, int]] = None) -> npt.NDArray[Any]:
    """Images as a model's input.

    Args:
        pre: What to do.
        images: uint8, (N, H, W, C) or a sequence of (H, W, C); RGB, or one channel.
        layout: `NHWC` or `NCHW` of the result.
        size: Height and width that the model takes; None, or 0 for one of them, where it takes any.

    Returns:
        float32, C-contiguous, (N, H, W, C) or (N, C, H, W).

    Raises:
        DataError: After the geometry an image has another size than the model takes, or than the image before it.
        UsageError: Another layout.
    """
    if layout not in ("NHWC", "NCHW"):
        raise UsageError(f"layout {layout!r}: NHWC or NCHW")
    if len(images) == 0:
        raise DataError("no image to preprocess")
    if pre.resize is None and pre.crop is None:
        shaped: Images = images
    else:
        shaped = [geometry(pre, image) for image in images]
    first = shaped[0].shape
    height, width, channels = first
    wanted = tuple(n or have for n, have in zip(size or (0, 0), first))
    for image in shaped if not isinstance(shaped, np.ndarray) else (shaped[0],):
        if image.shape[:2] != wanted:
            raise _misfit(image, (wanted[0], wanted[1]), size is not None and all(size))
        if image.shape[2] != channels:
            raise DataError(f"images of {channels} and of {image.shape[2]} channels in one batch")
        if image.dtype != np.uint8:
            raise DataError(f"an image of {image.dtype}; uint8 is needed")
    _check_channels(pre, channels)
    if layout == "NHWC":
        out = np.empty((len(shaped), height, width, channels), np.float32)
        view = out
    else:
        out = np.empty((len(shaped), channels, height, width), np.float32)
        view = out.transpose(0, 2, 3, 1)
    turn = -1 if pre.order == "bgr" and channels == 3 else 1
    if isinstance(shaped, np.ndarray):
        view[...] = shaped[..., ::turn]
    else:
        for number, image in enumerate(shaped):
            view[number] = image[..., ::turn]
    if pre.scale != 1.0:
        out /= np.float32(pre.scale)
    if any(pre.mean):
        view -= np.asarray(pre.mean, np.float32)
    if any(v != 1.0 for v in pre.std):
        view /= np.asarray(pre.std, np.float32)
    return out


def _misfit(image: npt.NDArray[Any], wanted: Tuple[int, int], model: bool) -> DataError:
    height, width = image.shape[:2]
    text = f"{wanted[0]}x{wanted[1]}"
    if model:
        message = f"an image is {height}x{width} after preprocessing, the model takes {text}"
    else:
        message = f"images of {text} and of {height}x{width} in one batch"
    return DataError(message, f"with how it was trained, such as --preprocess resize={text},unit")


def _check_channels(pre: Preprocess, channels: int) -> None:
    for name, values in (("mean", pre.mean), ("std", pre.std)):
        if len(values) not in (1, channels):
            raise DataError(
                f"{len(values)} values of {name} for images of {channels} channels", f"give one value, or {channels}"
            )
