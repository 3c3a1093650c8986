"""Rules of onnxruntime's own ops in float networks, mostly made by its optimiser.

Specification: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

TABLE = r"""
com.microsoft::BiasAdd                      n s c, c, n s c -> n s c | sum
com.microsoft::BiasGelu                     ... c, c -> ... c
com.microsoft::FastGelu                     ... c, c -> ... c
com.microsoft::Gelu                         ... -> ...
com.microsoft::QuickGelu                    ... -> ...
com.microsoft::FusedMatMul[transBatchA=1]   | refuse it moves batch axes as it contracts; save the model unoptimised
com.microsoft::FusedMatMul[transBatchB=1]   | refuse it moves batch axes as it contracts; save the model unoptimised
com.microsoft::FusedMatMul[transA=1,transB=1]  ... i m, ... o i -> ... m o | mix i
com.microsoft::FusedMatMul[transA=1]        ... i m, ... i o -> ... m o | mix i
com.microsoft::FusedMatMul[transB=1]        ... m i, ... o i -> ... m o | mix i
com.microsoft::FusedMatMul                  ... m i, ... i o -> ... m o | mix i
com.microsoft::TransposeMatMul[transA=1,transB=1]  ... i m, ... o i -> ... m o | mix i
com.microsoft::TransposeMatMul[transA=1]    ... i m, ... i o -> ... m o | mix i
com.microsoft::TransposeMatMul[transB=1]    ... m i, ... o i -> ... m o | mix i
com.microsoft::TransposeMatMul              ... m i, ... i o -> ... m o | mix i
com.microsoft::SkipLayerNormalization       ... c, ... c, c, c, c -> ... c, ... u, ... u, ... c | stat c
com.microsoft::SkipSimplifiedLayerNormalization  ... c, ... c, c, c -> ... c, ... u, ... u, ... c | stat c
com.microsoft::Trilu                        _, # -> _ | move
SimplifiedLayerNormalization                *a *c, *c -> *a *c, *a *u | stat c | at c=axis:-1
com.microsoft::SimplifiedLayerNormalization *a *c, *c -> *a *c, *a *u | stat c | at c=axis:-1

# a layer with its activation in it: a hidden layer like any other, but no mean may be taken inside it
com.microsoft::FusedConv  n (g i) *s, (g o) i *k, (g o), n (g o) *t -> n (g o) *t | mix i | whole t | set group=g | fused Conv
com.microsoft::FusedGemm[transA=1,transB=1]  i n, o i, o -> n o | mix i | fused Gemm
com.microsoft::FusedGemm[transA=1,transB=1]  i n, o i, n o -> n o | mix i | fused Gemm
com.microsoft::FusedGemm[transA=1,transB=1]  i n, o i, () -> n o | mix i | fused Gemm
com.microsoft::FusedGemm[transA=1]  i n, i o, o -> n o | mix i | fused Gemm
com.microsoft::FusedGemm[transA=1]  i n, i o, n o -> n o | mix i | fused Gemm
com.microsoft::FusedGemm[transA=1]  i n, i o, () -> n o | mix i | fused Gemm
com.microsoft::FusedGemm[transB=1]  n i, o i, o -> n o | mix i | fused Gemm
com.microsoft::FusedGemm[transB=1]  n i, o i, n o -> n o | mix i | fused Gemm
com.microsoft::FusedGemm[transB=1]  n i, o i, () -> n o | mix i | fused Gemm
com.microsoft::FusedGemm  n i, i o, o -> n o | mix i | fused Gemm
com.microsoft::FusedGemm  n i, i o, n o -> n o | mix i | fused Gemm
com.microsoft::FusedGemm  n i, i o, () -> n o | mix i | fused Gemm

# attention: heads are the vertices; the operands written () are caches and states, given ones fit the last line only
com.microsoft::Attention[qkv_hidden_sizes=none]  b s i, i (3 h d), (3 h d), *m, (), b h s t, () -> b s (h d), 2 b h t d | mix i | whole d | stat s | set num_heads=h | work b*h*s*s*d b*h*s*s*d
com.microsoft::Attention                    | refuse it reads a cache, or has heads of several sizes; save the model unoptimised
com.microsoft::MultiHeadAttention           b s (h d), b t (h d), b t (h d), (3 h d), *m, b h s t, (), (), (), () -> b s (h d), b h t d, b h t d, b h s t | whole s d t | set num_heads=h | work b*h*s*t*d b*h*s*t*d
com.microsoft::MultiHeadAttention           b s (h d), b t (h d), b t (h e), (), *m, b h s t, (), (), (), () -> b s (h e), b h t d, b h t e, b h s t | whole s d t e | set num_heads=h | work b*h*s*t*d b*h*s*t*e
com.microsoft::MultiHeadAttention           b s (h d), b h t d, b h t e, (), *m, b h s t, (), (), (), () -> b s (h e), b h t d, b h t e, b h s t | whole s d t e | set num_heads=h | work b*h*s*t*d b*h*s*t*e
com.microsoft::MultiHeadAttention           | refuse it reads a cache, or packed operands; save the model unoptimised
com.microsoft::GroupQueryAttention          b s (g r d), b s (g d), b s (g d), (), (), b, (), p c, p c, b s, b (g r) s t, (g r), (), (), d, d -> b s (g r d), b g u d, b g u d, b (g r) s t | whole s d | set num_heads=g*r kv_num_heads=g | work b*g*r*s*s*d b*g*r*s*s*d
com.microsoft::GroupQueryAttention          | refuse it reads a cache of keys and values, or packed operands; export the model without a cache
com.microsoft::RotaryEmbedding              b h s d, b s, p r, p r -> b h s d | whole d
com.microsoft::RotaryEmbedding[num_heads=none]  b s (h 2 r), b s, p r, p r -> b s (h 2 r) | whole 2 r
com.microsoft::RotaryEmbedding[num_heads=0]  b s (h 2 r), b s, p r, p r -> b s (h 2 r) | whole 2 r
com.microsoft::RotaryEmbedding              b s (h d), b s, p r, p r -> b s (h d) | whole d | set num_heads=h
com.microsoft::RotaryEmbedding              b h s d, o, p r, p r -> b h s d | whole s d
com.microsoft::RotaryEmbedding[num_heads=none]  b s (h 2 r), o, p r, p r -> b s (h 2 r) | whole s 2 r
com.microsoft::RotaryEmbedding[num_heads=0]  b s (h 2 r), o, p r, p r -> b s (h 2 r) | whole s 2 r
com.microsoft::RotaryEmbedding              b s (h d), o, p r, p r -> b s (h d) | whole s d | set num_heads=h
com.microsoft::EmbedLayerNormalization      b s, b s, v c, p c, k c, c, c, b s, b s -> b s c, b, b s c | whole s | stat c
"""
