"""Rules of ONNX ops that only move elements: their line says which operands are data, the op itself how they move.

Specification of each: https://onnx.ai/onnx/operators/onnx__NAME.html
"""

TABLE = r"""
# every element stays where it is
BitCast               ... -> ...
Cast                  ... -> ...
CastLike              ..., #like -> ...
Dropout               ... -> ..., ... | move
Dropout@12            ..., #, # -> ..., ... | move
Identity              ... -> ... | move

# shapes
Expand                _, #shape -> _ | move
Flatten               _ -> _ | move
Reshape               _ -> _ | move
Reshape@5             _, #shape -> _ | move
Squeeze               _ -> _ | move
Squeeze@13            _, #axes -> _ | move
Transpose             _ -> _ | move
Unsqueeze             _ -> _ | move
Unsqueeze@13          _, #axes -> _ | move

# pieces
CenterCropPad         _, #shape -> _ | move
Concat                _+ -> _ | move
Pad                   _ -> _ | move
Pad@11                _, #, #fill -> _ | move
Pad@18                _, #, #fill, #axes -> _ | move
Slice                 _ -> _ | move
Slice@10              _, #starts, #ends, #axes, #steps -> _ | move
Split                 _, #sizes -> _+ | move
Split@2               _ -> _+ | move
Split@13              _, #sizes -> _+ | move
Tile                  _, #, # -> _ | move
Tile@6                _, #repeats -> _ | move
Trilu                 _, # -> _ | move

# order
DepthToSpace          _ -> _ | move
Gather                *a v *b, #index -> *a *n *b | stat v | move | at v=axis:0
GatherElements        _, #index -> _ | move
GatherElements        *a v *b, *a n *b -> *a n *b | whole v | at v=axis:0
GatherElements        _, # -> _ | opaque
GatherND              _, #index -> _ | move
Scatter               _, #index, _ -> _ | move
ScatterElements       _, #index, _ -> _ | move
ScatterElements       *a v *b, *a n *b, *a n *b -> *a v *b | whole v n | at v=axis:0
ScatterElements       _, #, _ -> _ | opaque
ScatterElements@16[reduction=none]  _, #index, _ -> _ | move
ScatterElements@16    *a v *b, *a n *b, *a n *b -> *a v *b | whole v n | at v=axis:0
ScatterElements@16    _, #, _ -> _ | opaque
ScatterND             _, #index, _ -> _ | move
ScatterND@16[reduction=none]  _, #index, _ -> _ | move
ScatterND@16          _, #, _ -> _ | opaque
SpaceToDepth          _ -> _ | move
"""
