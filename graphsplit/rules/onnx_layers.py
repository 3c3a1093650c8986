"""Rules of ONNX ops that compute layers: contractions, norms, pools, statistics, and what no axis tells apart.

Specification of each: https://onnx.ai/onnx/operators/onnx__NAME.html
"""

TABLE = r"""
# contractions
Conv                  n (g i) *s, (g o) i *k, (g o) -> n (g o) *s | mix i | stat s | set group=g
Conv                  n (g i) *s, (g o) i *k, (g o) -> n (g o) *t | mix i | set group=g
ConvTranspose         n (g i) *s, (g i) o *k, (g o) -> n (g o) *t | mix i | set group=g
Einsum                _+ -> _ | equation
Gemm[transA=0,transB=0]  n i, i o, o -> n o | mix i
Gemm[transA=0,transB=0]  n i, i o, n o -> n o | mix i
Gemm[transA=0,transB=0]  n i, i o, () -> n o | mix i
Gemm[transA=0,transB=1]  n i, o i, o -> n o | mix i
Gemm[transA=0,transB=1]  n i, o i, n o -> n o | mix i
Gemm[transA=0,transB=1]  n i, o i, () -> n o | mix i
Gemm[transA=1,transB=0]  i n, i o, o -> n o | mix i
Gemm[transA=1,transB=0]  i n, i o, n o -> n o | mix i
Gemm[transA=1,transB=0]  i n, i o, () -> n o | mix i
Gemm[transA=1,transB=1]  i n, o i, o -> n o | mix i
Gemm[transA=1,transB=1]  i n, o i, n o -> n o | mix i
Gemm[transA=1,transB=1]  i n, o i, () -> n o | mix i
MatMul                ... m i, ... i o -> ... m o | mix i
MatMul                i, ... i o -> ... o | mix i
MatMul                ... m i, i -> ... m | mix i
MatMul                i, i -> () | mix i

# recurrent layers: a hidden unit with all its gates, in both directions, is one vertex
GRU         s n i, d (3 h) i, d (3 h) j, d (6 h), #, d n h -> s d n h, d n h | mix i | whole d | set hidden_size=h | back j=h
LSTM        s n i, d (4 h) i, d (4 h) j, d (8 h), #, d n h, d n h, d (3 h) -> s d n h, d n h, d n h | mix i | whole d | set hidden_size=h | back j=h
RNN         s n i, d h i, d h j, d (2 h), #, d n h -> s d n h, d n h | mix i | whole d | set hidden_size=h | back j=h
GRU@14[layout=0]         s n i, d (3 h) i, d (3 h) j, d (6 h), #, d n h -> s d n h, d n h | mix i | whole d | set hidden_size=h | back j=h
GRU@14[layout=1]         n s i, d (3 h) i, d (3 h) j, d (6 h), #, n d h -> n s d h, n d h | mix i | whole d | set hidden_size=h | back j=h
LSTM@14[layout=0]        s n i, d (4 h) i, d (4 h) j, d (8 h), #, d n h, d n h, d (3 h) -> s d n h, d n h, d n h | mix i | whole d | set hidden_size=h | back j=h
LSTM@14[layout=1]        n s i, d (4 h) i, d (4 h) j, d (8 h), #, n d h, n d h, d (3 h) -> n s d h, n d h, n d h | mix i | whole d | set hidden_size=h | back j=h
RNN@14[layout=0]         s n i, d h i, d h j, d (2 h), #, d n h -> s d n h, d n h | mix i | whole d | set hidden_size=h | back j=h
RNN@14[layout=1]         n s i, d h i, d h j, d (2 h), #, n d h -> n s d h, n d h | mix i | whole d | set hidden_size=h | back j=h

# norms
# up to version 9, batch statistics are taken when they are asked for as results
BatchNormalization[spatial=1]  n c *s, c, c, c, c -> n c *s
BatchNormalization[spatial=1]  n c *s, c, c, c, c -> n c *s, c, c, c, c | stat n s
BatchNormalization[spatial=0]  n c *s, c *s, c *s, c *s, c *s -> n c *s
BatchNormalization[spatial=0]  n c *s, c *s, c *s, c *s, c *s -> n c *s, c *s, c *s, c *s, c *s | stat n
BatchNormalization@9  n c *s, c, c, c, c -> n c *s
BatchNormalization@9  n c *s, c, c, c, c -> n c *s, c, c, c, c | stat n s
BatchNormalization@14[training_mode=0]  n c *s, c, c, c, c -> n c *s
BatchNormalization@14[training_mode=1]  n c *s, c, c, c, c -> n c *s, c, c | stat n s
GroupNormalization    n (g c) *s, g, g -> n (g c) *s | stat c s | set num_groups=g
GroupNormalization@21  n (g c) *s, (g c), (g c) -> n (g c) *s | stat c s | set num_groups=g
InstanceNormalization  n c *s, c, c -> n c *s | stat s
LRN                   n c *s -> n c *s | stat c
LayerNormalization    *a *c, *c, *c -> *a *c, *a *u, *a *u | stat c | at c=axis:-1
LayerNormalization    *a *b *c, *c, *c -> *a *b *c, *a *u, *a *u | stat b c | at b=axis:-1
LpNormalization       *a c *b -> *a c *b | stat c | at c=axis:-1
# it says that more is read than is: what one part computes of its own channels is right all the same
MeanVarianceNormalization  ... -> ... | stat ...
RMSNormalization      *a *c, *c -> *a *c | stat c | at c=axis:-1
RMSNormalization      *a *b *c, *c -> *a *b *c | stat b c | at b=axis:-1
Hardmax               *a *c -> *a *c | stat c | at c=axis:1
Hardmax@13            *a c *b -> *a c *b | stat c | at c=axis:-1
LogSoftmax            *a *c -> *a *c | stat c | at c=axis:1
LogSoftmax@13         *a c *b -> *a c *b | stat c | at c=axis:-1
Softmax               *a *c -> *a *c | stat c | at c=axis:1
Softmax@13            *a c *b -> *a c *b | stat c | at c=axis:-1
TopK                  *a c *b -> *a k *b, *a k *b | stat c | at c=axis:-1
TopK@10               *a c *b, # -> *a k *b, *a k *b | stat c | at c=axis:-1

# pools and resampling; the indices of MaxPool count over all channels: only MaxUnpool reads them rightly
AveragePool[every=1]  n c *s -> n c *t | window
AveragePool           n c *s -> n c *t
Col2Im                n (c k) l, #, # -> n c *t
GlobalAveragePool     n c *s -> n c *t
GlobalLpPool          n c *s -> n c *t
GlobalMaxPool         n c *s -> n c *t
GridSample            n c *s, n *t d -> n c *t | whole d
LpPool[every=1]       n c *s -> n c *t | window
LpPool                n c *s -> n c *t
MaxPool[every=1]      n c *s -> n c *t, _ | window
MaxPool               n c *s -> n c *t, _
MaxRoiPool            n c *s, r d -> r c *t | whole d
MaxUnpool             n c *s, n c *s, #shape -> n c *t
Resize                n c *s, # -> n c *t
Resize@11             n c *s, #, #, #shape -> n c *t
RoiAlign              n c *s, r d, r -> r c *t | whole d
Upsample              n c *s -> n c *t
Upsample@9            n c *s, # -> n c *t

# sequences
CumProd               *a c *b, #axes -> *a c *b | stat c | at c=axes:0
CumSum                *a c *b, #axes -> *a c *b | stat c | at c=axes:0
ReverseSequence[batch_axis=0,time_axis=1]  n t *s, n -> n t *s | whole t
ReverseSequence[batch_axis=1,time_axis=0]  t n *s, n -> t n *s | whole t

# statistics
ArgMax                _ -> _ | reduce
ArgMin                _ -> _ | reduce
ReduceL1              _ -> _ | reduce
ReduceL1@18           _, #axes -> _ | reduce
ReduceL2              _ -> _ | reduce
ReduceL2@18           _, #axes -> _ | reduce
ReduceLogSum          _ -> _ | reduce
ReduceLogSum@18       _, #axes -> _ | reduce
ReduceLogSumExp       _ -> _ | reduce
ReduceLogSumExp@18    _, #axes -> _ | reduce
ReduceMax             _ -> _ | reduce
ReduceMax@18          _, #axes -> _ | reduce
ReduceMean            _ -> _ | reduce
ReduceMean@18         _, #axes -> _ | reduce
ReduceMin             _ -> _ | reduce
ReduceMin@18          _, #axes -> _ | reduce
ReduceProd            _ -> _ | reduce
ReduceProd@18         _, #axes -> _ | reduce
ReduceSum             _ -> _ | reduce
ReduceSum@13          _, #axes -> _ | reduce
ReduceSumSquare       _ -> _ | reduce
ReduceSumSquare@18    _, #axes -> _ | reduce

# no relation between axes: only on what every part has whole
AffineGrid            _, #shape -> _ | opaque
Compress              _, # -> _ | opaque
DFT                   _, # -> _ | opaque
DFT@20                _, #, # -> _ | opaque
DeformConv            _, _, _, _, _ -> _ | opaque
Det                   _ -> _ | opaque
EyeLike               _ -> _ | opaque
NegativeLogLikelihoodLoss  _, _, _ -> _ | opaque
NonMaxSuppression     _, _, #, #, # -> _ | opaque
NonZero               _ -> _ | opaque
OneHot                _, #, # -> _ | opaque
STFT                  _, #, _, # -> _ | opaque
SoftmaxCrossEntropyLoss  _, _, _ -> _, _ | opaque
Unique                _ -> _, _, _, _ | opaque
"""
