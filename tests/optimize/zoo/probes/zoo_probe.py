"""Run in a child process: put a torchvision state_dict into the Keras models and compare what they give."""

from __future__ import annotations

import numpy as np

from optimize.zoo.keras_resnet import build, load_torchvision
from optimize.zoo.make import installed_keras


def compare(cases, progress):
    """The largest difference of the probabilities, and the trainable parameters, for each (name, stem, file)."""
    keras = installed_keras()
    found = []
    for name, stem, path in cases:
        data = np.load(path)
        model = build(keras, name, stem, 5, 40)
        load_torchvision(model, {k[2:]: data[k] for k in data.files if k.startswith("w:")})
        scores = np.asarray(model(data["x"].transpose(0, 2, 3, 1), training=False))
        parameters = int(sum(np.prod(v.shape) for v in model.trainable_variables))
        found.append({"difference": float(np.abs(scores - data["expected"]).max()), "parameters": parameters})
    return found
