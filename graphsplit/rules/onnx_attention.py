"""Rules of ONNX ops that mix tokens: attention over heads, linear attention, convolution over time, rotary positions.

Heads are the vertices: a query head goes with its key-value head, `g` counting those and `r` the queries that share one.
Operands written `()` are caches and states, which have axes where they are given: such a node fits no line but the last.

Specification of each: https://onnx.ai/onnx/operators/onnx__NAME.html
"""

TABLE = r"""
# heads as an axis of their own, or side by side with their number in attributes; masks of rank 2 to 4
Attention[kv_num_heads=none,q_num_heads=none]  b (g r) s d, b g t d, b g t e, s t, (), (), b -> b (g r) s e, b g t d, b g t e, b (g r) s t | whole s d t e | work b*g*r*s*t*d b*g*r*s*t*e
Attention[kv_num_heads=none,q_num_heads=none]  b (g r) s d, b g t d, b g t e, (g r) s t, (), (), b -> b (g r) s e, b g t d, b g t e, b (g r) s t | whole s d t e | work b*g*r*s*t*d b*g*r*s*t*e
Attention[kv_num_heads=none,q_num_heads=none]  b (g r) s d, b g t d, b g t e, b (g r) s t, (), (), b -> b (g r) s e, b g t d, b g t e, b (g r) s t | whole s d t e | work b*g*r*s*t*d b*g*r*s*t*e
Attention  b s (g r d), b t (g d), b t (g e), s t, (), (), b -> b s (g r e), b g t d, b g t e, b (g r) s t | whole s d t e | set kv_num_heads=g q_num_heads=g*r | work b*g*r*s*t*d b*g*r*s*t*e
Attention  b s (g r d), b t (g d), b t (g e), (g r) s t, (), (), b -> b s (g r e), b g t d, b g t e, b (g r) s t | whole s d t e | set kv_num_heads=g q_num_heads=g*r | work b*g*r*s*t*d b*g*r*s*t*e
Attention  b s (g r d), b t (g d), b t (g e), b (g r) s t, (), (), b -> b s (g r e), b g t d, b g t e, b (g r) s t | whole s d t e | set kv_num_heads=g q_num_heads=g*r | work b*g*r*s*t*d b*g*r*s*t*e
Attention  | refuse it reads a cache of keys and values, or operands of shapes that no rule describes; export the model without a cache
LinearAttention  b t (g r d), b t (g d), b t (g e), (), b t (g d), b t g -> b t (g r e), b g d e | whole t d e | set kv_num_heads=g q_num_heads=g*r
LinearAttention  b t (g r d), b t (g d), b t (g e), (), b t g, b t g -> b t (g r e), b g d e | whole t d e | set kv_num_heads=g q_num_heads=g*r
LinearAttention  | refuse it reads a state, or operands of shapes that no rule describes; export the model without a cache
CausalConvWithState  b c t, c 1 k, c, () -> b c t, b c u | whole t | work b*c*t*k
CausalConvWithState  | refuse it reads a state; export the model without a cache
ai.onnx.preview::FlexAttention  | refuse its scores go through graphs of its own; export the model with its attention spelled out

# positions
RotaryEmbedding       b h s d, p r, p r, b s -> b h s d | whole d
RotaryEmbedding       b h s d, b s r, b s r -> b h s d | whole d
RotaryEmbedding       b s (h d), p r, p r, b s -> b s (h d) | whole d | set num_heads=h
RotaryEmbedding       b s (h d), b s r, b s r -> b s (h d) | whole d | set num_heads=h
TensorScatter         n *a t *b, n *a w *b, n -> n *a t *b | whole t w | at t=axis:-2 w=axis:-2
"""
