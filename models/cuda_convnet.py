"""The network that the paper trains on CIFAR-10: cuda-convnet's `layers-cifar10-11pct`, as a torch module.

Two convolutions with local response normalisation, two locally connected layers, one dense layer: 2,112,970 parameters.
Input: crops (n, 3, 24, 24); output: logits (n, 10).

graphsplit split models.cuda_convnet:CudaConvnet -k 2 --input 1x3x24x24 -o parts
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, pad, relu, unfold

STDS = {"conv1": 1e-4, "conv2": 0.01, "local3": 0.04, "local4": 0.04, "fc": 0.01}
"""Deviations of the initial weights, by layer; biases are zero."""


class LocallyConnected2d(nn.Module):
    """A convolution whose weights aren't shared: each position has its own filters and biases.

    (n, inputs, size, size) to (n, outputs, size, size); `weight` is (positions, outputs, inputs * kernel * kernel).
    """

    def __init__(self, inputs: int, outputs: int, size: int, kernel: int = 3) -> None:
        super().__init__()
        self.size, self.kernel = size, kernel
        self.weight = nn.Parameter(torch.zeros(size * size, outputs, inputs * kernel * kernel))
        self.bias = nn.Parameter(torch.zeros(outputs, size * size))

    def forward(self, x: Tensor) -> Tensor:
        """One matrix product a position."""
        patches = unfold(pad(x, (self.kernel // 2,) * 4), self.kernel)  # n, inputs * kernel * kernel, positions
        found = torch.matmul(self.weight, patches.permute(2, 1, 0)).permute(2, 1, 0) + self.bias
        return found.reshape(x.shape[0], -1, self.size, self.size)


class CudaConvnet(nn.Module):
    """The whole network; `widths` are the filters of its four hidden layers."""

    def __init__(self, widths: Sequence[int] = (64, 64, 64, 32)) -> None:
        super().__init__()
        one, two, three, four = widths
        self.conv1 = nn.Conv2d(3, one, 5, padding=2)
        self.conv2 = nn.Conv2d(one, two, 5, padding=2)
        self.norm = nn.LocalResponseNorm(9, alpha=1e-3, beta=0.75, k=1.0)
        self.local3 = LocallyConnected2d(two, three, 6)
        self.local4 = LocallyConnected2d(three, four, 6)
        self.fc = nn.Linear(36 * four, 10)
        for name, std in STDS.items():
            layer = self.get_submodule(name)
            nn.init.normal_(layer.get_parameter("weight"), std=std)
            nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, image: Tensor) -> Tensor:
        """Logits of the ten classes."""
        x = self.norm(max_pool2d(relu(self.conv1(image)), 3, 2, ceil_mode=True))
        x = max_pool2d(self.norm(relu(self.conv2(x))), 3, 2, ceil_mode=True)
        x = relu(self.local4(relu(self.local3(x))))
        logits: Tensor = self.fc(x.flatten(1))
        return logits
