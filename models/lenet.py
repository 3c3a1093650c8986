"""The LeNet that the paper trains on MNIST, as a torch module: 431,080 parameters, dropout behind the first dense layer.

graphsplit split models.lenet:LeNet -k 2 --input 1x1x28x28 -o parts
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu


class LeNet(nn.Module):
    """conv 20@5x5, pool 2, conv 50@5x5, pool 2, dense 500 with dropout, dense 10. Images (n, 1, 28, 28) to logits (n, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.drop = nn.Dropout(0.5)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of the ten digits."""
        x = max_pool2d(relu(self.conv1(image)), 2)
        x = max_pool2d(relu(self.conv2(x)), 2)
        logits: Tensor = self.fc2(self.drop(relu(self.fc1(x.flatten(1)))))
        return logits
