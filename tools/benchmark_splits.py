"""Measure what splitting a torch module costs: its time as a ratio to torch.export's own, and its peak memory.

    python tools/benchmark_splits.py [NETWORK ...] [--json] [--repeats N]

For each network, in a process of its own, K = 2: the median time of one export (both modes are exported, so two are the
least that a split takes), of a split, and of its stages; and how far memory rises at most, as a ratio to the bytes of model
and sub-models.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

NETWORKS = {"resnet152": 64, "densenet201": 64, "efficientnet_v2_l": 64, "vit_b_16": 224, "swin_t": 224, "vgg16": 64}
"""Networks of torchvision, and the side of their images."""
Figures = dict[str, Any]


def resident() -> int:
    """Bytes in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def measured(name: str, repeats: int) -> Figures:
    """The figures of one network."""
    import torch

    from graphsplit.formats.torch_graph import export
    from graphsplit.modules import split_module
    from tests.torch_nets import vision

    torch.set_num_threads(1)
    torch.manual_seed(0)
    models: Any = vision().models  # type: ignore[attr-defined]
    x = torch.randn(2, 3, NETWORKS[name], NETWORKS[name])
    small = models.resnet18()
    split_module(small, (torch.randn(2, 3, 64, 64),), k=2)  # what is imported and compiled once is no part of it
    model = models.get_model(name, weights=None)
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    exports, splits, stages = [], [], []
    before, submodels = resident(), 0
    for _ in range(repeats):
        start = time.perf_counter()
        export(model.eval(), (x,))
        exports.append(time.perf_counter() - start)
        marks = _Marks()
        start = time.perf_counter()
        parts = split_module(model, (x,), k=2, progress=marks)
        end = time.perf_counter()
        splits.append(end - start)
        stages.append(_stages(marks.found, end))
        submodels = sum(t.numel() * t.element_size() for part in parts.submodels for t in part.state_dict().values())
        del parts
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    once = statistics.median(exports)
    return {
        "export": once,
        "split": statistics.median(splits),
        "ratio": statistics.median(splits) / once,
        "stages": {stage: statistics.median(found[stage] for found in stages) for stage in stages[0]},
        "model": size,
        "submodels": submodels,
        "peak": peak,
        "memory": (size + peak) / (2 * size + submodels),
    }


class _Marks:
    """When each stage began."""

    def __init__(self) -> None:
        self.found: list[tuple[str, float]] = []

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.found.append((stage, time.perf_counter()))


def _stages(marks: list[tuple[str, float]], end: float) -> dict[str, float]:
    found: dict[str, float] = {}
    for (stage, begin), (_, stop) in zip(marks, [*marks[1:], ("", end)], strict=True):
        found[stage] = found.get(stage, 0.0) + stop - begin
    return found


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), help=", ".join(NETWORKS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.networks[0], options.repeats)))
        return
    found: dict[str, Figures] = {}
    for name in options.networks:
        command = [sys.executable, __file__, name, "--one", "--repeats", str(options.repeats)]
        found[name] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    if options.json:
        print(json.dumps(found))
        return
    print(
        f"{'network':<18} {'export':>8} {'split':>8} {'ratio':>6}   {'of which exports, plan, parts':<30} {'memory':>7}"
    )
    for name, one in found.items():
        parts = "  ".join(f"{seconds:.2f}" for seconds in one["stages"].values())
        print(
            f"{name:<18} {one['export']:>6.2f} s {one['split']:>6.2f} s {one['ratio']:>6.2f}   {parts:<30} {one['memory']:>7.2f}"
        )
    print("memory: model and peak, as a ratio to twice the model and the sub-models")


if __name__ == "__main__":
    main()
