"""Image files to arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.errors import DataError, UsageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")

_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr")
"""Pillow's modes of eight bits or less a channel; deeper ones would be clipped by `convert`, not scaled."""


def read_image(path: Path) -> npt.NDArray[Any]:
    """Decode an image file as torchvision's and timm's loaders do: RGB, orientation tags not obeyed.

    Returns:
        uint8 of shape (H, W, 3).

    Raises:
        UsageError: No such file.
        DataError: Not an image, damaged, cut short, or of more than eight bits a channel.
    """
    from PIL import Image, UnidentifiedImageError

    hint = "give JPEG or PNG files of 8 bits a channel"
    try:
        with Image.open(path) as image:
            if image.mode not in _MODES:
                raise DataError(f"{path}: an image of mode {image.mode}, more than 8 bits a channel", hint)
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:
        raise DataError(f"{path}: not an image that can be read", hint) from None
    except FileNotFoundError:
        raise UsageError(f"no such image: {path}", "check the path") from None
    except (PermissionError, IsADirectoryError):
        raise
    # Pillow's decoders raise these on damaged files; a bomb is an image of absurd size.
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: damaged image ({error})", hint) from None
