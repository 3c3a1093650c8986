"""The models of torchvision, by what they are for."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from tools.zoos.example import Example, declare_vision

SIZES = {"inception_v3": 299, "alexnet": 96, "googlenet": 96, "vit_h_14": 56, "squeezenet1_0": 96, "squeezenet1_1": 96}
"""Sides of images other than 64 pixels, where a model needs them."""
TAKES_SIZE = ("vit_",)
VIDEO = {"mvit": (16, 224), "s3d": (16, 224)}
"""Frames and pixels of clips other than 4 x 32."""


def names() -> list[str]:
    """Every model that torchvision registers."""
    models = _models()
    return list(models.list_models())


def build(name: str) -> Example:
    """A model with random weights, and a small input."""
    models = _models()
    module = models.get_model_builder(name).__module__
    options: dict[str, Any] = {"weights": None}
    if name.startswith("quantized_"):
        options["quantize"] = False  # the float network that is trained before anything is quantised
    if "segmentation" in module or "detection" in module:
        options["weights_backbone"] = None
    if "inception" in name or "googlenet" in name:
        options["init_weights"] = True
    size = SIZES.get(name.removeprefix("quantized_"), 64)
    if name.startswith(TAKES_SIZE):
        options["image_size"] = size
    if name == "maxvit_t":
        size = 224
    model = models.get_model(name, **options)
    if "detection" in module:
        return Example(model, ([torch.randn(3, 96, 96), torch.randn(3, 96, 96)],))
    if "optical_flow" in module:
        return Example(model, (torch.randn(2, 3, 128, 128), torch.randn(2, 3, 128, 128)))
    if "video" in module:
        frames, side = next((found for start, found in VIDEO.items() if name.startswith(start)), (4, 32))
        if name.startswith("swin3d"):
            frames, side = 4, 64
        return Example(model, (torch.randn(2, 3, frames, side, side),))
    return Example(model, (torch.randn(2, 3, size, size),))


def _models() -> Any:
    declare_vision()
    return importlib.import_module("torchvision.models")
