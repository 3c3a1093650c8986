"""Networks that the tests of drawings draw."""

from __future__ import annotations

from pathlib import Path

import onnx

from tests.networks import NETWORKS, REFUSED

ROOT = Path(__file__).parent.parent
LENET = ROOT / "models" / "lenet.onnx"
DRAWN = ("lenet", "resnet_basic", "shufflenet_v1_g2", "spatial_gate", "backbone", "transformer", "unused_parts")


def saved(name: str, folder: Path) -> Path:
    path = folder / f"{name}.onnx"
    onnx.save(NETWORKS[name]() if name in NETWORKS else REFUSED[name][0](), path)
    return path


EVIL = "</script><script>hacked=1</script><img src=x onerror=hacked=1>\u2028&amp;\"'"


def evil(folder: Path) -> Path:
    """LeNet with names that are markup."""
    model = onnx.load(LENET)
    model.graph.name = EVIL
    for node in model.graph.node:
        node.name = f"{EVIL}{node.name}"
        node.input[:] = [f"{EVIL}{name}" for name in node.input]
        node.output[:] = [f"{EVIL}{name}" for name in node.output]
    for value in (*model.graph.initializer, *model.graph.input, *model.graph.output):
        value.name = f"{EVIL}{value.name}"
    onnx.save(model, folder / "evil.onnx")
    return folder / "evil.onnx"
