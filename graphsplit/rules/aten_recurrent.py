"""Rules of aten's recurrent layers and cells: a hidden unit with all its gates is one vertex.

A node holds one layer in one direction; graphsplit/formats/torch_recurrent.py writes stacks out. Operands are the sequence,
the states in front of it, the weights of input and state, and their biases.

Specification: https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html, GRU and RNN, and their cells.
"""

TABLE = r"""
# recurrent layers
aten::lstm.data            | refuse packed sequences have steps of sizes that are data; give padded ones
aten::gru.data             | refuse packed sequences have steps of sizes that are data; give padded ones
aten::rnn_tanh.data        | refuse packed sequences have steps of sizes that are data; give padded ones
aten::rnn_relu.data        | refuse packed sequences have steps of sizes that are data; give padded ones
aten::lstm[has_biases=0,operands=6]  | refuse its hidden state is projected inside; write proj_size as a linear layer behind it
aten::lstm[has_biases=1,operands=8]  | refuse its hidden state is projected inside; write proj_size as a linear layer behind it
aten::lstm[batch_first=0]  s n i, d n h, d n h, (4 h) i, (4 h) j, (4 h), (4 h) -> s n h, d n h, d n h | mix i | stat s | back j=h
aten::lstm[batch_first=1]  n s i, d n h, d n h, (4 h) i, (4 h) j, (4 h), (4 h) -> n s h, d n h, d n h | mix i | stat s | back j=h
aten::gru[batch_first=0]   s n i, d n h, (3 h) i, (3 h) j, (3 h), (3 h) -> s n h, d n h | mix i | stat s | back j=h
aten::gru[batch_first=1]   n s i, d n h, (3 h) i, (3 h) j, (3 h), (3 h) -> n s h, d n h | mix i | stat s | back j=h
aten::rnn_tanh[batch_first=0]  s n i, d n h, h i, h j, h, h -> s n h, d n h | mix i | stat s | back j=h
aten::rnn_tanh[batch_first=1]  n s i, d n h, h i, h j, h, h -> n s h, d n h | mix i | stat s | back j=h
aten::rnn_relu[batch_first=0]  s n i, d n h, h i, h j, h, h -> s n h, d n h | mix i | stat s | back j=h
aten::rnn_relu[batch_first=1]  n s i, d n h, h i, h j, h, h -> n s h, d n h | mix i | stat s | back j=h

# one step
aten::lstm_cell            n i, n h, n h, (4 h) i, (4 h) j, (4 h), (4 h) -> n h, n h | mix i | back j=h
aten::gru_cell             n i, n h, (3 h) i, (3 h) j, (3 h), (3 h) -> n h | mix i | back j=h
aten::rnn_tanh_cell        n i, n h, h i, h j, h, h -> n h | mix i | back j=h
aten::rnn_relu_cell        n i, n h, h i, h j, h, h -> n h | mix i | back j=h
"""
