"""Measure that planning is linear: generated networks of growing depth and width, planned for K = 2.

    python tools/benchmark_planning.py [--json]

Two series of four sizes, each twice the one before: chains of residual convolution blocks (nodes grow, width stays) and
dense layers (vertices grow, nodes stay). The figure that counts is the ratio of the time to that of the size before;
about 2 is linear. Times are medians of three runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np

from graphsplit.graph import ArrayTensor, Graph, Node, Value
from graphsplit.network import make, prepare

FLOAT = np.dtype(np.float32)


def convolutions(nodes: int, channels: int = 8) -> Graph:
    """Residual blocks of two convolutions, `nodes` convolutions in all."""
    weight = ArrayTensor(np.zeros((channels, channels, 3, 3), np.float32))
    made: list[Node] = []
    tensors = {"stem": ArrayTensor(np.zeros((channels, 3, 3, 3), np.float32))}
    made.append(Node("stem", "Conv", "", 11, ("x", "stem"), ("h0",), {"pads": (1, 1, 1, 1)}))
    value = "h0"
    for block in range((nodes - 1) // 2):
        for half in range(2):
            tensors[f"w{block}.{half}"] = weight
            source = value if half == 0 else f"r{block}"
            made.append(
                Node(
                    f"conv{block}.{half}",
                    "Conv",
                    "",
                    11,
                    (source, f"w{block}.{half}"),
                    (f"c{block}.{half}",),
                    {"pads": (1, 1, 1, 1)},
                )
            )
            if half == 0:
                made.append(Node(f"relu{block}", "Relu", "", 14, (f"c{block}.0",), (f"r{block}",)))
        made.append(Node(f"add{block}", "Add", "", 14, (value, f"c{block}.1"), (f"h{block + 1}",)))
        value = f"h{block + 1}"
    tensors["head"] = ArrayTensor(np.zeros((10, channels, 1, 1), np.float32))
    made.append(Node("head", "Conv", "", 11, (value, "head"), ("y",)))
    return _graph(made, tensors, (2, 3, 8, 8), (2, 10, 8, 8))


def dense(vertices: int, layers: int = 8) -> Graph:
    """Dense layers in pairs of a wide one and a narrow one, `vertices` hidden units in all."""
    width = vertices // layers
    made: list[Node] = []
    tensors: dict[str, ArrayTensor] = {}
    value, size = "x", 4
    for i in range(layers):
        # Broadcast views: a weight of any size in no memory.
        tensors[f"w{i}"] = ArrayTensor(np.broadcast_to(np.float32(0), (4, width)))
        tensors[f"v{i}"] = ArrayTensor(np.broadcast_to(np.float32(0), (width, 4)))
        made.append(Node(f"up{i}", "MatMul", "", 13, (value, f"w{i}"), (f"u{i}",)))
        made.append(Node(f"relu{i}", "Relu", "", 14, (f"u{i}",), (f"r{i}",)))
        made.append(Node(f"down{i}", "MatMul", "", 13, (f"r{i}", f"v{i}"), (f"d{i}",)))
        value = f"d{i}"
    return _graph(made, tensors, (2, size), (2, size), value)


def _graph(
    nodes: list[Node],
    tensors: dict[str, ArrayTensor],
    given: tuple[int, ...],
    result: tuple[int, ...],
    output: str = "y",
) -> Graph:
    return Graph(
        "generated",
        (Value("x", FLOAT, given),),
        (Value(output, FLOAT, result),),
        tuple(nodes),
        tensors,
        opsets={"": 17},
    )


def seconds(graph: Graph) -> float:
    """Median time to load facts, flow and partition."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        make(prepare(graph), 2)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = []
    for series, build, sizes in (
        ("convolution nodes", convolutions, (1250, 2500, 5000, 10000)),
        ("vertices", dense, (125_000, 250_000, 500_000, 1_000_000)),
    ):
        before = None
        for size in sizes:
            spent = seconds(build(size))
            rows.append(
                {
                    "series": series,
                    "size": size,
                    "seconds": round(spent, 3),
                    "ratio": round(spent / before, 2) if before else None,
                }
            )
            before = spent
            if not arguments.json:
                ratio = rows[-1]["ratio"]
                print(f"{series:>20} {size:>10,}  {spent:8.2f} s  {'' if ratio is None else f'x {ratio}'}", flush=True)
    if arguments.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
