"""Networks with recurrent layers of torch, and with their cells."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

KINDS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
CELLS = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn": nn.RNNCell}


class Last(nn.Module):
    """A linear layer behind the last hidden state of the last layer, in both directions where there are two."""

    def __init__(self, kind: str = "lstm", **options: Any) -> None:
        super().__init__()
        self.rnn = KINDS[kind](5, 12, **options)
        self.both = self.rnn.bidirectional
        self.head = nn.Linear(24 if self.both else 12, 4)

    def forward(self, x: Any) -> Any:
        _, last = self.rnn(x)
        hidden = last[0] if isinstance(last, tuple) else last
        return self.head(torch.cat([hidden[-2], hidden[-1]], 1) if self.both else hidden[-1])


class Loop(nn.Module):
    """A cell in a Python loop."""

    def __init__(self, kind: str = "lstm", **options: Any) -> None:
        super().__init__()
        self.cell, self.head = CELLS[kind](5, 12, **options), nn.Linear(12, 4)

    def forward(self, x: Any) -> Any:
        state, hidden = None, []
        for step in x:
            state = self.cell(step, state)
            hidden.append(state[0] if isinstance(state, tuple) else state)
        return self.head(torch.stack(hidden))


class Crnn(nn.Module):
    """Text recognition: the columns of a feature map are the steps of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
        )
        self.rnn = nn.LSTM(48, 8, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(16, 6)

    def forward(self, x: Any) -> Any:
        x = self.features(x)
        batch, channels, height, width = x.shape
        return self.head(self.rnn(x.permute(0, 3, 1, 2).reshape(batch, width, channels * height))[0])


class Language(nn.Module):
    """A language model; `tied`: the output layer is the embedding."""

    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        width = 16 if tied else 24
        self.embedding, self.drop = nn.Embedding(30, 16), nn.Dropout(0.2)
        self.rnn, self.head = nn.LSTM(16, width, 2, dropout=0.2, batch_first=True), nn.Linear(width, 30)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, x: Any) -> Any:
        return self.head(self.drop(self.rnn(self.drop(self.embedding(x)))[0]))


class Translation(nn.Module):
    """An encoder that hands its hidden state to a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.translated = nn.Embedding(30, 12), nn.Embedding(30, 12)
        self.encoder, self.decoder = nn.GRU(12, 20, batch_first=True), nn.GRU(12, 20, batch_first=True)
        self.head = nn.Linear(20, 30)

    def forward(self, x: Any, y: Any) -> Any:
        _, hidden = self.encoder(self.words(x))
        return self.head(self.decoder(self.translated(y), hidden)[0])


class Started(nn.Module):
    """Initial states that train."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(5, 12, 2), nn.Linear(12, 4)
        self.hidden, self.cell = nn.Parameter(torch.randn(2, 1, 12)), nn.Parameter(torch.randn(2, 1, 12))

    def forward(self, x: Any) -> Any:
        states = (self.hidden.expand(-1, x.shape[1], -1), self.cell.expand(-1, x.shape[1], -1))
        return self.head(self.rnn(x, states)[0])


class Continued(nn.Module):
    """States come in and go out, as where a long text is read piece by piece."""

    def __init__(self, kind: str = "lstm") -> None:
        super().__init__()
        self.rnn, self.head = KINDS[kind](5, 12, 2), nn.Linear(12, 4)

    def forward(self, x: Any, states: Any) -> Any:
        y, states = self.rnn(x, states)
        return self.head(y), states


class Attention(nn.Module):
    """Attention over the steps of a recurrent layer, and a residual one behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.second = nn.GRU(5, 12, bidirectional=True, batch_first=True), nn.LSTM(24, 24, batch_first=True)
        self.norm, self.query, self.value, self.head = (
            nn.LayerNorm(24),
            nn.Linear(24, 8),
            nn.Linear(8, 1),
            nn.Linear(24, 3),
        )

    def forward(self, x: Any) -> Any:
        y = self.norm(self.rnn(x)[0])
        y = y + self.second(y)[0]
        weights = self.value(self.query(y).tanh()).softmax(1)
        return self.head((weights * y).sum(1))


class Written(nn.Module):
    """A recurrent cell written by hand: its state starts with zeros, which are no layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.outer, self.inner, self.head = nn.Linear(5, 48), nn.Linear(12, 48), nn.Linear(12, 4)

    def forward(self, x: Any) -> Any:
        h = c = x.new_zeros(x.shape[1], 12)
        for step in x:
            i, f, g, o = (self.outer(step) + self.inner(h)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.head(h)


class Convolved(nn.Module):
    """A convolutional LSTM: state and input side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2 + 12, 48, 3, padding=1), nn.Conv2d(12, 1, 1)

    def forward(self, x: Any) -> Any:
        h = c = x.new_zeros(x.shape[0], 12, *x.shape[3:])
        for step in x.unbind(1):
            i, f, g, o = self.conv(torch.cat([step, h], 1)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.head(h)


class Viewed(nn.Module):
    """What is behind a layer relies on its order in memory; the layer in front of it takes no gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.rnn = nn.GRU(5, 9, batch_first=True), nn.LSTM(9, 12, 2, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Any) -> Any:
        with torch.no_grad():
            x = self.frozen(x)[0]
        return self.head(self.rnn(x)[0].contiguous().view(-1, 12))


class TimeMixed(nn.Module):
    """Neurons along the time axis, in front of a recurrent layer."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.time = nn.Linear(20, 64), nn.Linear(64, 24)
        self.rnn, self.head = KINDS[kind](2, 6), nn.Linear(6, 4)

    def forward(self, x: Any) -> Any:
        y = self.time(self.first(x.permute(1, 2, 0)).relu()).relu().permute(2, 0, 1)
        return self.head(self.rnn(y)[0]).sum(0)


class Unbatched(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.rnn, self.head = KINDS[kind](5, 12, bidirectional=True), nn.Linear(24, 4)

    def forward(self, x: Any) -> Any:
        return self.head(self.rnn(x)[0])
