"""Rules of aten ops that compute layers: contractions, norms, pools, statistics, and what no axis tells apart.

Specification: https://docs.pytorch.org/docs/stable/nn.functional.html and https://docs.pytorch.org/docs/stable/torch.html
"""

TABLE = r"""
# contractions
aten::conv1d               n (g i) x, (g o) i w, (g o) -> n (g o) x | mix i | stat x | set groups=g
aten::conv1d               n (g i) x, (g o) i w, (g o) -> n (g o) u | mix i | set groups=g
aten::conv1d               (g i) x, (g o) i w, (g o) -> (g o) u | mix i | set groups=g
aten::conv2d               n (g i) y x, (g o) i h w, (g o) -> n (g o) y x | mix i | stat y x | set groups=g
aten::conv2d               n (g i) y x, (g o) i h w, (g o) -> n (g o) v u | mix i | set groups=g
aten::conv2d               (g i) y x, (g o) i h w, (g o) -> (g o) v u | mix i | set groups=g
aten::conv3d               n (g i) z y x, (g o) i d h w, (g o) -> n (g o) z y x | mix i | stat z y x | set groups=g
aten::conv3d               n (g i) z y x, (g o) i d h w, (g o) -> n (g o) t v u | mix i | set groups=g
aten::conv3d               (g i) z y x, (g o) i d h w, (g o) -> (g o) t v u | mix i | set groups=g
aten::conv_transpose1d     n (g i) x, (g i) o w, (g o) -> n (g o) u | mix i | set groups=g
aten::conv_transpose2d     n (g i) y x, (g i) o h w, (g o) -> n (g o) v u | mix i | set groups=g
aten::conv_transpose3d     n (g i) z y x, (g i) o d h w, (g o) -> n (g o) t v u | mix i | set groups=g
aten::convolution[transposed=0]  n (g i) *s, (g o) i *k, (g o) -> n (g o) *s | mix i | stat s | set groups=g
aten::convolution[transposed=0]  n (g i) *s, (g o) i *k, (g o) -> n (g o) *t | mix i | set groups=g
aten::convolution[transposed=1]  n (g i) *s, (g i) o *k, (g o) -> n (g o) *t | mix i | set groups=g
aten::linear               ... i, o i, o -> ... o | mix i
aten::bilinear             ... i, ... j, o i j, o -> ... o | mix i j
aten::matmul               ... m i, ... i o -> ... m o | mix i
aten::matmul               i, ... i o -> ... o | mix i
aten::matmul               ... m i, i -> ... m | mix i
aten::matmul               i, i -> () | mix i
aten::mm                   m i, i o -> m o | mix i
aten::bmm                  b m i, b i o -> b m o | mix i
aten::mv                   m i, i -> m | mix i
aten::dot                  i, i -> () | mix i
aten::vdot                 i, i -> () | mix i
aten::outer                m, o -> m o
aten::addmm                o, m i, i o -> m o | mix i
aten::addmm                m o, m i, i o -> m o | mix i
aten::addmm                1 o, m i, i o -> m o | mix i
aten::addmv                m, m i, i -> m | mix i
aten::baddbmm              b m o, b m i, b i o -> b m o | mix i
aten::baddbmm              ..., b m i, b i o -> b m o | mix i
aten::einsum               _+ -> _ | equation
aten::scaled_dot_product_attention  ... q d, ... s d, ... s e, ... q s -> ... q e | whole s d | work ...*q*s*d ...*q*s*e
aten::scaled_dot_product_attention[enable_gqa=1]  n (g r) q d, n g s d, n g s e, n (g r) q s -> n (g r) q e | whole s d | work n*g*r*q*s*d n*g*r*q*s*e
aten::scaled_dot_product_attention[enable_gqa=1]  n (g r) q d, n g s d, n g s e, n 1 q s -> n (g r) q e | whole s d | work n*g*r*q*s*d n*g*r*q*s*e
aten::scaled_dot_product_attention[enable_gqa=1]  n (g r) q d, n g s d, n g s e, q s -> n (g r) q e | whole s d | work n*g*r*q*s*d n*g*r*q*s*e
aten::_native_multi_head_attention  | refuse its projections lie inside it; export it in training mode
aten::_transformer_encoder_layer_fwd  | refuse the whole layer is one op; export it in training mode
aten::cdist                ... m d, ... n d -> ... m n | whole d
aten::cosine_similarity    | refuse it takes statistics along an axis that its result lacks; write it with mul and sum

# norms
aten::batch_norm[training=0]  n c *s, c, c, c, c -> n c *s
aten::batch_norm[training=1]  n c *s, c, c, c, c -> n c *s | stat n s
aten::_native_batch_norm_legit_no_training  n c *s, c, c, c, c -> n c *s, _, _
aten::native_batch_norm[training=0]  n c *s, c, c, c, c -> n c *s, _, _
aten::native_batch_norm[training=1]  n c *s, c, c, c, c -> n c *s, c, c | stat n s
aten::group_norm           n (g c) *s, (g c), (g c) -> n (g c) *s | stat c s | set num_groups=g
aten::instance_norm[use_input_stats=1]  n c *s, c, c, c, c -> n c *s | stat s
aten::instance_norm[use_input_stats=0]  n c *s, c, c, c, c -> n c *s
aten::layer_norm           *a *c, *c, *c -> *a *c | stat c | set normalized_shape=c
aten::native_layer_norm    *a *c, *c, *c -> *a *c, *a *u, *a *u | stat c | set normalized_shape=c
aten::rms_norm             *a *c, *c -> *a *c | stat c | set normalized_shape=c
aten::softmax              *a c *b -> *a c *b | stat c | at c=dim:-1
aten::_softmax             *a c *b -> *a c *b | stat c | at c=dim:-1
aten::log_softmax          *a c *b -> *a c *b | stat c | at c=dim:-1
aten::_log_softmax         *a c *b -> *a c *b | stat c | at c=dim:-1
aten::cumsum               *a c *b -> *a c *b | stat c | at c=dim:0
aten::cumprod              *a c *b -> *a c *b | stat c | at c=dim:0
aten::logcumsumexp         *a c *b -> *a c *b | stat c | at c=dim:0
aten::cummax               *a c *b -> *a c *b, *a c *b | stat c | at c=dim:0
aten::cummin               *a c *b -> *a c *b, *a c *b | stat c | at c=dim:0
aten::sort                 *a c *b -> *a c *b, *a c *b | stat c | at c=dim:-1
aten::argsort              *a c *b -> *a c *b | stat c | at c=dim:-1
aten::topk                 *a c *b -> *a k *b, *a k *b | stat c | at c=dim:-1
aten::kthvalue             _ -> _, _ | opaque
aten::fft_fft              *a c *b -> *a c *b | stat c | at c=dim:-1
aten::fft_fft              *a c *b -> *a k *b | stat c | at c=dim:-1
aten::fft_ifft             *a c *b -> *a c *b | stat c | at c=dim:-1
aten::fft_ifft             *a c *b -> *a k *b | stat c | at c=dim:-1
aten::fft_rfft             *a c *b -> *a k *b | stat c | at c=dim:-1
aten::fft_irfft            *a c *b -> *a k *b | stat c | at c=dim:-1
aten::glu[dim=-1]          ... (h c) -> ... c | whole h
aten::glu[dim=1]           n (h c) *s -> n c *s | whole h
aten::_weight_norm[dim=0]  o *s, o *one -> o *s | stat s
aten::_weight_norm[dim=1]  i o *s, first o *one -> i o *s | stat i s
aten::_weight_norm         ..., ... -> ... | stat ...
aten::_weight_norm_interface[dim=0]  o *s, o *one -> o *s, o *one | stat s
aten::_weight_norm_interface[dim=1]  i o *s, first o *one -> i o *s, first o *one | stat i s
aten::_weight_norm_interface  ..., ... -> ..., _ | stat ...
aten::_weight_norm_interface  _, _ -> _, _ | opaque

# pools and resampling; the indices of a max pool count within each plane
aten::adaptive_avg_pool1d  n c x -> n c u
aten::adaptive_avg_pool1d  c x -> c u
aten::adaptive_max_pool1d  n c x -> n c u, n c u
aten::adaptive_max_pool1d  c x -> c u, c u
aten::avg_pool1d[every=1]  n c x -> n c u | window
aten::avg_pool1d           n c x -> n c u
aten::avg_pool1d[every=1]  c x -> c u | window
aten::avg_pool1d           c x -> c u
aten::max_pool1d[every=1]  n c x -> n c u | window
aten::max_pool1d           n c x -> n c u
aten::max_pool1d[every=1]  c x -> c u | window
aten::max_pool1d           c x -> c u
aten::max_pool1d_with_indices n c x -> n c u, n c u
aten::max_pool1d_with_indices c x -> c u, c u
aten::adaptive_avg_pool2d  n c y x -> n c v u
aten::adaptive_avg_pool2d  c y x -> c v u
aten::_adaptive_avg_pool2d n c y x -> n c v u
aten::_adaptive_avg_pool2d c y x -> c v u
aten::adaptive_max_pool2d  n c y x -> n c v u, n c v u
aten::adaptive_max_pool2d  c y x -> c v u, c v u
aten::avg_pool2d[still=1]  n c y x -> n c v x
aten::avg_pool2d[still=1]  c y x -> c v x
aten::avg_pool2d[every=1]  n c y x -> n c v u | window
aten::avg_pool2d           n c y x -> n c v u
aten::avg_pool2d[every=1]  c y x -> c v u | window
aten::avg_pool2d           c y x -> c v u
aten::max_pool2d[still=1]  n c y x -> n c v x
aten::max_pool2d[still=1]  c y x -> c v x
aten::max_pool2d[every=1]  n c y x -> n c v u | window
aten::max_pool2d           n c y x -> n c v u
aten::max_pool2d[every=1]  c y x -> c v u | window
aten::max_pool2d           c y x -> c v u
aten::max_pool2d_with_indices n c y x -> n c v u, n c v u
aten::max_pool2d_with_indices c y x -> c v u, c v u
aten::adaptive_avg_pool3d  n c z y x -> n c t v u
aten::adaptive_avg_pool3d  c z y x -> c t v u
aten::_adaptive_avg_pool3d n c z y x -> n c t v u
aten::_adaptive_avg_pool3d c z y x -> c t v u
aten::adaptive_max_pool3d  n c z y x -> n c t v u, n c t v u
aten::adaptive_max_pool3d  c z y x -> c t v u, c t v u
aten::avg_pool3d[every=1]  n c z y x -> n c t v u | window
aten::avg_pool3d           n c z y x -> n c t v u
aten::avg_pool3d[every=1]  c z y x -> c t v u | window
aten::avg_pool3d           c z y x -> c t v u
aten::max_pool3d[every=1]  n c z y x -> n c t v u | window
aten::max_pool3d           n c z y x -> n c t v u
aten::max_pool3d[every=1]  c z y x -> c t v u | window
aten::max_pool3d           c z y x -> c t v u
aten::max_pool3d_with_indices n c z y x -> n c t v u, n c t v u
aten::max_pool3d_with_indices c z y x -> c t v u, c t v u
aten::fractional_max_pool2d  n c *s, n c two -> n c *t, n c *t
aten::max_unpool2d         n c *s, n c *s -> n c *t
aten::max_unpool3d         n c *s, n c *s -> n c *t
aten::upsample_bicubic2d   n c *s -> n c *t
aten::upsample_bilinear2d  n c *s -> n c *t
aten::_upsample_bilinear2d_aa  n c *s -> n c *t
aten::_upsample_bicubic2d_aa  n c *s -> n c *t
aten::upsample_linear1d    n c *s -> n c *t
aten::upsample_nearest1d   n c *s -> n c *t
aten::upsample_nearest2d   n c *s -> n c *t
aten::upsample_nearest3d   n c *s -> n c *t
aten::_upsample_nearest_exact1d  n c *s -> n c *t
aten::_upsample_nearest_exact2d  n c *s -> n c *t
aten::_upsample_nearest_exact3d  n c *s -> n c *t
aten::upsample_trilinear3d  n c *s -> n c *t
aten::grid_sampler         n c *s, n *t d -> n c *t | whole d
aten::grid_sampler_2d      n c *s, n *t d -> n c *t | whole d
aten::grid_sampler_3d      n c *s, n *t d -> n c *t | whole d
aten::affine_grid_generator  _ -> _ | opaque
torchvision::roi_align     n c *s, r d -> r c *t | whole d
torchvision::roi_pool      n c *s, r d -> r c *t, r c *t | whole d
torchvision::nms           _, _ -> _ | opaque
torchvision::deform_conv2d  _, _, _, _, _ -> _ | opaque

# statistics
aten::all                  _ -> _ | reduce
aten::amax                 _ -> _ | reduce
aten::amin                 _ -> _ | reduce
aten::any                  _ -> _ | reduce
aten::argmax               _ -> _ | reduce
aten::argmin               _ -> _ | reduce
aten::count_nonzero        _ -> _ | reduce
aten::frobenius_norm       _ -> _ | reduce
aten::linalg_vector_norm   _ -> _ | reduce
aten::logsumexp            _ -> _ | reduce
aten::max.default          _ -> _ | reduce
aten::max.dim              _ -> _, _ | reduce
aten::max.other            ..., ... -> ...
aten::mean                 _ -> _ | reduce
aten::median               _ -> _, _ | reduce
aten::min.default          _ -> _ | reduce
aten::min.dim              _ -> _, _ | reduce
aten::min.other            ..., ... -> ...
aten::mode                 _ -> _, _ | reduce
aten::nanmean              _ -> _ | reduce
aten::nansum               _ -> _ | reduce
aten::norm                 _ -> _ | reduce
aten::prod                 _ -> _ | reduce
aten::std                  _ -> _ | reduce
aten::std_mean             _ -> _, _ | reduce
aten::sum                  _ -> _ | reduce
aten::var                  _ -> _ | reduce
aten::var_mean             _ -> _, _ | reduce

# no relation between axes: only on what every part has whole
aten::binary_cross_entropy_with_logits  _, _, _, _ -> _ | opaque
aten::bincount             _, _ -> _ | opaque
aten::bucketize            _, _ -> _ | opaque
aten::cross_entropy_loss   _, _, _ -> _ | opaque
aten::det                  _ -> _ | opaque
aten::diff                 _, _, _ -> _ | opaque
aten::fft_fft2             _ -> _ | opaque
aten::fft_fftn             _ -> _ | opaque
aten::fft_ifft2            _ -> _ | opaque
aten::fft_ifftn            _ -> _ | opaque
aten::fft_irfft2           _ -> _ | opaque
aten::fft_irfftn           _ -> _ | opaque
aten::fft_rfft2            _ -> _ | opaque
aten::fft_rfftn            _ -> _ | opaque
aten::histc                _ -> _ | opaque
aten::index_put            _+ -> _ | opaque
aten::linalg_inv           _ -> _ | opaque
aten::mse_loss             _, _ -> _ | opaque
aten::multinomial          _ -> _ | opaque
aten::nll_loss             _, _, _ -> _ | opaque
aten::nonzero              _ -> _ | opaque
aten::one_hot              _ -> _ | opaque
aten::searchsorted         _, _ -> _ | opaque
aten::stft                 _, _ -> _ | opaque
aten::unique_consecutive   _ -> _, _, _ | opaque
aten::_unique2             _ -> _, _, _ | opaque
"""
