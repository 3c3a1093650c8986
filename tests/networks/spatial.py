"""Networks whose output is an image, a grid or a sequence: encoder-decoders, detection, sub-pixel, 1-D and 3-D."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from tests.networks.blocks import classifier, conv_bn, conv_relu, image
from tests.networks.builder import Net
from tests.networks.registry import network, variants


@variants(unet={"up": "ConvTranspose"}, unet_resize={"up": "Resize"}, unet_linear={"up": "ResizeLinear"})
def unet(up: str) -> onnx.ModelProto:
    """Dynamic height and width; the skip connections are concatenated."""
    net = Net("unet")
    x = net.input("input", ("batch", 3, "height", "width"))
    skips = []
    for i, width in enumerate((8, 12)):
        x = conv_bn(net, conv_bn(net, x, f"down.{i}.0", width), f"down.{i}.1", width)
        skips.append(x)
        x = net.max_pool(x)
    x = conv_bn(net, x, "middle", 16)
    for i, skip in reversed(list(enumerate(skips))):
        if up == "ConvTranspose":
            x = net.conv_transpose(x, f"up.{i}.up", net.size(skip))
        else:
            x = conv_relu(net, net.upsample(x, mode="linear" if up == "ResizeLinear" else "nearest"), f"up.{i}.up", 10)
        x = conv_bn(net, net.concat(skip, x), f"up.{i}.0", net.size(skip))
    net.output(net.op("Sigmoid", net.conv(x, "head", 2, 1)), "mask")
    return net.build()


@network
def segmentation_resize_to_input() -> onnx.ModelProto:
    """Logits are resized to the input's own height and width, computed in the graph."""
    net = Net("segmentation")
    x = net.input("input", ("batch", 3, "height", "width"))
    y = conv_bn(net, conv_bn(net, x, "conv1", 8, stride=2), "conv2", 12, stride=2)
    y = net.conv(y, "classifier", 5, 1)
    size = net.op("Slice", net.op("Shape", x), *(net.constant([v], name="bound") for v in (2, 4, 0)))
    channels = net.op("Slice", net.op("Shape", y), *(net.constant([v], name="bound") for v in (0, 2, 0)))
    full = net.concat(channels, size, axis=0)
    y = net.op("Resize", y, "", "", full, mode="linear", coordinate_transformation_mode="pytorch_half_pixel")
    net.output(net.declare(y, ("batch", 5, "height", "width")), "output")
    return net.build()


@network
def autoencoder() -> onnx.ModelProto:
    net = Net("autoencoder")
    x = image(net, 1, 12)
    for i, width in enumerate((8, 12)):
        x = conv_relu(net, x, f"encoder.{i}", width, stride=2)
    x = net.op("Tanh", net.dense(net.flatten(x), "encoder.fc", 10))
    x = net.relu(net.dense(x, "decoder.fc", 12 * 9))
    x = net.reshape(x, [-1, 12, 3, 3])
    x = net.relu(net.conv_transpose(x, "decoder.0", 8, 4, pad=1))
    net.output(net.op("Sigmoid", net.conv_transpose(x, "decoder.1", 1, 4, pad=1)), "output")
    return net.build()


@network
def grouped_conv_transpose() -> onnx.ModelProto:
    net = Net("grouped_conv_transpose")
    x = conv_relu(net, image(net, size=8), "conv1", 12, stride=2)
    x = net.relu(net.conv_transpose(x, "up1", 16, 4, pad=1, groups=4))
    x = net.relu(net.conv_transpose(x, "depthwise_up", 16, groups=16))
    net.output(net.conv(x, "head", 3), "output")
    return net.build()


ANCHORS, CLASSES = 2, 3


def yolo_scale(net: Net, x: str, name: str, stride: int) -> str:
    """Boxes in pixels, objectness and classes of one scale: (N, anchors * H * W, 5 + classes)."""
    channels = 5 + CLASSES
    height, width = net.size(x, 2), net.size(x, 3)
    y = net.conv(x, f"head.{name}", ANCHORS * channels, 1)
    y = net.transpose(net.reshape(y, [-1, ANCHORS, channels, height, width]), [0, 1, 3, 4, 2])
    centre, size, score = net.split(net.op("Sigmoid", y), [2, 2, channels - 4], axis=-1)
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)[None, None]
    centre = net.op("Sub", net.mul(centre, net.constant(2.0)), net.constant(0.5))
    centre = net.mul(net.add(centre, net.constant(grid, "float32", f"grid.{name}")), net.constant(float(stride)))
    anchors = np.asarray([[1.0, 2.0], [2.5, 1.5]]).reshape(1, ANCHORS, 1, 1, 2) * stride
    size = net.op("Pow", net.mul(size, net.constant(2.0)), net.constant(2.0))
    size = net.mul(size, net.constant(anchors, name=f"anchors.{name}"))
    return net.reshape(net.concat(centre, size, score, axis=-1), [-1, ANCHORS * height * width, channels])


@variants(detection={"suppress": False}, detection_nms={"suppress": True})
def detection(suppress: bool) -> onnx.ModelProto:
    """YOLO-like: two scales, decoding by constants, and non-maximum suppression behind it in one variant."""
    net = Net("detection")
    x = conv_bn(net, image(net), "stem", 8, stride=2, act="Swish")
    fine = conv_bn(net, x, "stage1", 12, stride=2, act="Swish")
    coarse = conv_bn(net, fine, "stage2", 16, stride=2, act="Swish")
    lifted = net.upsample(conv_bn(net, coarse, "lateral", 8, 1, act="Swish"))
    fine = conv_bn(net, net.concat(lifted, fine), "fuse", 12, act="Swish")
    found = net.concat(yolo_scale(net, fine, "p2", 4), yolo_scale(net, coarse, "p3", 8))
    if not suppress:
        net.output(found, "output")
        return net.build()
    boxes, objectness, classes = net.split(found, [4, 1, CLASSES], axis=2)
    scores = net.transpose(net.mul(classes, objectness), [0, 2, 1])
    limits = [net.constant([5], name="max_boxes"), net.constant([0.5], name="iou"), net.constant([0.1], name="score")]
    chosen = net.op("NonMaxSuppression", boxes, scores, *limits, center_point_box=1)
    where = net.op("Gather", chosen, net.constant([0, 2]), axis=1)
    net.output(net.op("GatherND", boxes, where), "detections")
    net.output(chosen, "selected")
    return net.build()


@variants(single_shot={"shared": False}, retinanet={"shared": True})
def single_shot(shared: bool) -> onnx.ModelProto:
    """Class and box heads over two scales; RetinaNet's heads share their weights between the scales."""
    net = Net("single_shot")
    x = conv_bn(net, image(net), "stem", 8, stride=2)
    fine = conv_bn(net, x, "stage1", 12, stride=2)
    levels = [fine, conv_bn(net, fine, "stage2", 12, stride=2)]
    results = []
    for head, width in (("class", CLASSES + 1), ("box", 4)):
        rows = []
        for i, level in enumerate(levels):
            if i and shared:
                weights = f"{head}.0.0.weight", f"{head}.0.0.bias"
                y = net.relu(net.op("Conv", level, *weights, name=f"{head}.{i}.0", pads=[1] * 4))
            else:
                y = conv_relu(net, level, f"{head}.{i}.0", 10)
            y = net.conv(y, f"{head}.{i}.out", ANCHORS * width)
            rows.append(net.reshape(net.transpose(y, [0, 2, 3, 1]), [0, -1, width]))
        results.append(net.concat(*rows))
    net.output(net.op("Softmax", results[0], axis=-1), "scores")
    net.output(results[1], "boxes")
    return net.build()


def depth_to_space(net: Net, x: str, factor: int, spelling: str) -> str:
    if spelling != "reshape":
        return net.op("DepthToSpace", x, blocksize=factor, mode=spelling)
    channels, height, width = (net.size(x, i) for i in (1, 2, 3))
    inner = channels // factor**2
    y = net.transpose(net.reshape(x, [-1, inner, factor, factor, height, width]), [0, 1, 4, 2, 5, 3])
    return net.reshape(y, [-1, inner, height * factor, width * factor])


@variants(subpixel_crd={"spelling": "CRD"}, subpixel_dcr={"spelling": "DCR"}, subpixel_reshape={"spelling": "reshape"})
def subpixel(spelling: str) -> onnx.ModelProto:
    """Pixel shuffle once in the middle and once behind the output layer."""
    net = Net("subpixel")
    x = net.relu(net.conv(image(net, size=6), "conv1", 8, 5))
    x = net.relu(depth_to_space(net, net.conv(x, "conv2", 32), 2, spelling))
    net.output(depth_to_space(net, net.conv(x, "conv3", 12), 2, spelling), "output")
    return net.build()


def focus(net: Net, x: str) -> str:
    """YOLOv5's stem: the four phases of the image, by strided slices, side by side."""
    end = np.iinfo(np.int64).max
    phases = []
    for start in ([0, 0], [1, 0], [0, 1], [1, 1]):
        bounds = (start, [end, end], [2, 3], [2, 2])
        phases.append(net.op("Slice", x, *(net.constant(b, name="bound") for b in bounds)))
    return net.concat(*phases)


def space_to_depth(net: Net, x: str) -> str:
    return net.op("SpaceToDepth", x, blocksize=2)


@variants(pixel_unshuffle={"stem": space_to_depth}, focus={"stem": focus})
def pixel_unshuffle(stem: Callable[[Net, str], str]) -> onnx.ModelProto:
    """Space moved into channels, of the raw input and of features."""
    net = Net("pixel_unshuffle")
    x = conv_bn(net, stem(net, image(net)), "conv1", 8)
    x = conv_bn(net, stem(net, x), "conv2", 12)
    classifier(net, x)
    return net.build()


@network
def conv1d() -> onnx.ModelProto:
    """Dilated convolutions over time with gates, as in WaveNet; a dynamic length."""
    net = Net("conv1d")
    x = net.input("audio", ("batch", 2, "length"))
    x = net.conv(x, "first", 8, 1)
    skips = []
    for i in range(3):
        name = f"layers.{i}"
        filtered = net.op("Tanh", net.conv(x, f"{name}.filter", 12, 3, dilation=2**i))
        gate = net.op("Sigmoid", net.conv(x, f"{name}.gate", 12, 3, dilation=2**i))
        y = net.mul(filtered, gate)
        skips.append(net.conv(y, f"{name}.skip", 10, 1))
        x = net.add(x, net.conv(y, f"{name}.residual", 8, 1)) if i < 2 else x
    x = net.relu(net.op("Sum", *skips))
    net.output(net.conv(net.relu(net.conv(x, "end1", 10, 1)), "end2", 4, 1), "output")
    return net.build()


@network
def conv3d() -> onnx.ModelProto:
    net = Net("conv3d")
    x = net.input("video", ("batch", 2, 4, 8, 8))
    x = net.max_pool(conv_bn(net, x, "conv1", 8))
    x = net.add(x, conv_bn(net, x, "conv2", 8))
    x = net.relu(net.conv(x, "conv3", 12, (1, 3, 3)))
    classifier(net, x)
    return net.build()
