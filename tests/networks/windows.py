"""Pools that move along vertices, and images one side of which is vertices."""

from __future__ import annotations

import onnx

from tests.networks.builder import Net
from tests.networks.norms import in_a_trunk
from tests.networks.registry import network


def local_response_pooled(net: Net, x: str, name: str) -> str:
    """The same as torch spells it: an average pool over the channels, border and all."""
    _, channels, height, width = net.shape(x)
    rows = net.reshape(net.mul(x, x), [0, 1, int(channels), int(height) * int(width)])  # type: ignore[arg-type]
    found = net.op("AveragePool", rows, name=name, kernel_shape=[3, 1], pads=[1, 0, 1, 0], count_include_pad=1)
    found = net.reshape(found, [0, int(channels), int(height), int(width)])  # type: ignore[arg-type]
    found = net.add(net.mul(found, net.constant(0.3)), net.constant(1.0))
    return net.op("Div", x, net.op("Pow", found, net.constant(0.75)))


def strongest_of_three(net: Net, x: str, name: str) -> str:
    """The greatest of each channel and its two neighbours: a max pool that moves along the channels."""
    _, channels, height, width = net.shape(x)
    rows = net.reshape(x, [0, 1, int(channels), int(height) * int(width)])  # type: ignore[arg-type]
    found = net.op("MaxPool", rows, name=name, kernel_shape=[3, 1], pads=[1, 0, 1, 0])
    return net.reshape(found, [0, int(channels), int(height), int(width)])  # type: ignore[arg-type]


@network
def lrn_pooled() -> onnx.ModelProto:
    return in_a_trunk(local_response_pooled)


@network
def strongest_neighbour() -> onnx.ModelProto:
    """A max pool along the channels, twice."""
    return in_a_trunk(strongest_of_three)


@network
def spectrum_as_image() -> onnx.ModelProto:
    """A trained transform gives frequencies, which an image network then has along one side; a pool needs that side whole."""
    net = Net("spectrum_as_image")
    x = net.transpose(net.conv(net.input("input", ("batch", 8, 12)), "transform", 11, 1, bias=False), [0, 2, 1])
    x = net.transpose(net.unsqueeze(net.mul(x, x), [3]), [0, 3, 1, 2])
    x = net.relu(net.conv(x, "conv1", 16))
    x = net.max_pool(net.relu(net.conv(net.relu(net.conv(x, "conv2", 12)), "conv3", 12)))
    net.output(net.dense(net.global_pool(net.relu(net.conv(x, "conv4", 12))), "fc", 4), "output")
    return net.build()
