"""The smallest model of each family that timm registers, with inputs as small as it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tools.zoos.example import Example, declare_vision

TABLE = Path(__file__).with_name("timm_families.txt")
"""A line a family: the module that registers it with the family's name, and its smallest model."""
SIZES = (64, 96, 128, 160, 192, 224, 256, 384, 448, 512)


def names() -> list[str]:
    """A model of every family: the smallest of each module first."""
    rows = [line.split() for line in TABLE.read_text(encoding="utf-8").splitlines() if line[:1] not in ("", "#")]
    rows.sort(key=lambda row: int(row[2]))
    modules: dict[str, str] = {}
    for family, model, _ in rows:
        modules.setdefault(family.partition("/")[0], model)
    return list(dict.fromkeys([*sorted(modules.values()), *sorted(model for _, model, _ in rows)]))


def build(name: str) -> Example:
    """A model with random weights, for the smallest images on which it runs."""
    declare_vision()
    import timm

    input_size, fixed = _configured(name)
    channels, _, largest = input_size
    sizes = [size for size in SIZES if size < largest] + [largest]
    takes_size = _takes_size(name)
    if fixed and not takes_size:
        sizes = [largest]
    plain = None if takes_size else timm.create_model(name)
    for size in sizes:
        try:
            model = plain or timm.create_model(name, img_size=size)
            images = torch.randn(2, channels, size, size)
            with torch.no_grad():
                model.eval()(images)
        except (RuntimeError, ValueError, AssertionError, TypeError, KeyError, IndexError, ZeroDivisionError):
            if size == largest:
                raise
            continue
        return Example(model, (images,))
    raise AssertionError(name)


def _configured(name: str) -> tuple[tuple[int, int, int], bool]:
    """A model's usual input, and whether it takes no other."""
    import timm

    config: Any = timm.models.get_pretrained_cfg(name)
    if config is not None:
        return config.input_size, bool(config.fixed_input_size)
    with torch.device("meta"):  # one that goes by an old name has its settings only once it is built
        held: Any = timm.create_model(name).pretrained_cfg
    return held["input_size"], bool(held.get("fixed_input_size"))


def _takes_size(name: str) -> bool:
    """Whether a model's builder takes the size of its images; nothing is computed to find out."""
    import timm

    try:
        with torch.device("meta"):
            timm.create_model(name, img_size=224)
    except (TypeError, AssertionError, RuntimeError, ValueError, NotImplementedError) as error:
        return not isinstance(error, TypeError)
    return True
