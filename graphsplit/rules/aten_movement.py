"""Rules of aten ops that only move elements: their line says which operands are data, the op itself how they move.

Specification: https://docs.pytorch.org/docs/stable/torch.html#indexing-slicing-joining-mutating-ops
"""

TABLE = r"""
# every element stays where it is
aten::alias                ... -> ... | move
aten::alpha_dropout        ... -> ... | move
aten::clone                ... -> ... | move
aten::contiguous           ... -> ... | move
aten::detach               ... -> ... | move
aten::dropout              ... -> ... | move
aten::feature_alpha_dropout  ... -> ... | move
aten::feature_dropout      ... -> ... | move
aten::lift_fresh           ... -> ... | move
aten::lift_fresh_copy      ... -> ... | move
aten::native_dropout       ... -> ..., ... | move

# shapes
aten::broadcast_to         _ -> _ | move
aten::expand               _ -> _ | move
aten::expand_copy          _ -> _ | move
aten::flatten              _ -> _ | move
aten::movedim              _ -> _ | move
aten::moveaxis             _ -> _ | move
aten::mT                   _ -> _ | move
aten::matrix_H             _ -> _ | move
aten::numpy_T              _ -> _ | move
aten::permute              _ -> _ | move
aten::permute_copy         _ -> _ | move
aten::reshape              _ -> _ | move
aten::squeeze              _ -> _ | move
aten::swapaxes             _ -> _ | move
aten::swapdims             _ -> _ | move
aten::t                    _ -> _ | move
aten::transpose            _ -> _ | move
aten::unflatten            _ -> _ | move
aten::unsqueeze            _ -> _ | move
aten::view                 _ -> _ | move
aten::view_copy            _ -> _ | move
aten::_unsafe_view         _ -> _ | move
aten::view.dtype           | refuse it reads the bits of its elements as another type
aten::as_strided           | refuse it looks at memory, not at axes; write it with view, permute and slices
aten::view_as_complex      *a c -> *a | whole c
aten::view_as_real         *a -> *a c

# pieces
aten::cat                  _+ -> _ | move
aten::chunk                _ -> _+ | move
aten::constant_pad_nd      _ -> _ | move
aten::diagonal             _ -> _ | move
aten::narrow               _ -> _ | move
aten::narrow_copy          _ -> _ | move
aten::pad                  _ -> _ | move
aten::reflection_pad1d     _ -> _ | move
aten::reflection_pad2d     _ -> _ | move
aten::reflection_pad3d     _ -> _ | move
aten::replication_pad1d    _ -> _ | move
aten::replication_pad2d    _ -> _ | move
aten::replication_pad3d    _ -> _ | move
aten::repeat               _ -> _ | move
aten::repeat_interleave    _ -> _ | move
aten::select               _ -> _ | move
aten::select_scatter       _, _ -> _ | move
aten::slice                _ -> _ | move
aten::slice_scatter        _, _ -> _ | move
aten::split                _ -> _+ | move
aten::split_with_sizes     _ -> _+ | move
aten::meshgrid             _+ -> _+ | move
aten::stack                _+ -> _ | move
aten::tensor_split         _ -> _+ | move
aten::tile                 _ -> _ | move
aten::tril                 _ -> _ | move
aten::triu                 _ -> _ | move
aten::unbind               _ -> _+ | move
aten::unfold               _ -> _ | move
aten::im2col               n c s t -> n (c k) l
aten::col2im               n (c k) l -> n c s t

# order
aten::channel_shuffle      _ -> _ | move
aten::flip                 _ -> _ | move
aten::gather               *a v *b, *a n *b -> *a n *b | whole v | at v=dim:0
aten::index[operands=2]    v *b, #index -> *n *b | stat v | move
aten::index[operands=3,axis=0]  v w *b, #index, #index -> *n *b | stat v w | move
aten::index[operands=3,axis=1]  u v *b, #index, #index -> u *n *b | stat v | move
aten::index                _, #index+ -> _ | move
aten::index_select         *a v *b, #index -> *a n *b | stat v | move | at v=dim:0
aten::embedding            v d, #index -> *n d | stat v | move
aten::pixel_shuffle        _ -> _ | move
aten::pixel_unshuffle      _ -> _ | move
aten::roll                 _ -> _ | move
aten::rot90                _ -> _ | move
aten::index_add            *a v *b, #, *a n *b -> *a v *b | whole v n | at v=dim:0
aten::index_add            _, #, _ -> _ | opaque
aten::scatter              _, #index, _ -> _ | move
aten::scatter              *a v *b, *a n *b, *a n *b -> *a v *b | whole v n | at v=dim:0
aten::scatter              _, #, _ -> _ | opaque
aten::scatter_add          *a v *b, *a n *b, *a n *b -> *a v *b | whole v n | at v=dim:0
aten::scatter_add          _, #, _ -> _ | opaque
aten::scatter_reduce       *a v *b, *a n *b, *a n *b -> *a v *b | whole v n | at v=dim:0
aten::scatter_reduce       _, #, _ -> _ | opaque
aten::take_along_dim       _, #index -> _ | move
"""
