"""Labelled images from CIFAR-10, folders, npz files or a synthetic set, in splits that never overlap."""

from calib.datasets.base import Dataset, Source
from calib.datasets.images import read_image
from calib.datasets.open import locate, open_dataset

__all__ = ["Dataset", "Source", "locate", "open_dataset", "read_image"]
