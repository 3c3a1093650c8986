"""Ops of onnxruntime's own that are refused whatever their shapes: fused, quantised, or with a state of their own.

Specification: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

TABLE = r"""
# fused or quantised by onnxruntime
com.microsoft::FusedMatMulActivation        | refuse a layer with its activation in it; save the model unoptimised
com.microsoft::DequantizeLinear             | refuse quantised; split the float model, and quantise what is merged
com.microsoft::DynamicQuantizeLSTM          | refuse quantised; split the float model, and quantise what is merged
com.microsoft::DynamicQuantizeMatMul        | refuse quantised; split the float model, and quantise what is merged
com.microsoft::MatMulInteger16              | refuse quantised; split the float model, and quantise what is merged
com.microsoft::MatMulIntegerToFloat         | refuse quantised; split the float model, and quantise what is merged
com.microsoft::MatMulBnb4                   | refuse quantised; split the float model, and quantise what is merged
com.microsoft::MatMulFpQ4                   | refuse quantised; split the float model, and quantise what is merged
com.microsoft::MatMulNBits                  | refuse quantised; split the float model, and quantise what is merged
com.microsoft::QAttention                   | refuse quantised; split the float model, and quantise what is merged
com.microsoft::QEmbedLayerNormalization     | refuse quantised; split the float model, and quantise what is merged
com.microsoft::QGemm                        | refuse quantised; split the float model, and quantise what is merged
com.microsoft::QLinearAdd                   | refuse quantised; split the float model, and quantise what is merged
com.microsoft::QLinearAveragePool           | refuse quantised; split the float model, and quantise what is merged
com.microsoft::QLinearConcat                | refuse quantised; split the float model, and quantise what is merged
com.microsoft::QLinearConv                  | refuse quantised; split the float model, and quantise what is merged
com.microsoft::QLinearGlobalAveragePool     | refuse quantised; split the float model, and quantise what is merged
com.microsoft::QLinearLeakyRelu             | refuse quantised; split the float model, and quantise what is merged
com.microsoft::QLinearMul                   | refuse quantised; split the float model, and quantise what is merged
com.microsoft::QLinearReduceMean            | refuse quantised; split the float model, and quantise what is merged
com.microsoft::QLinearSigmoid               | refuse quantised; split the float model, and quantise what is merged
com.microsoft::QLinearSoftmax               | refuse quantised; split the float model, and quantise what is merged
com.microsoft::QLinearWhere                 | refuse quantised; split the float model, and quantise what is merged
com.microsoft::QOrderedMatMul               | refuse quantised; split the float model, and quantise what is merged
com.microsoft::QuantizeLinear               | refuse quantised; split the float model, and quantise what is merged
com.microsoft.nchwc::AveragePool            | refuse its channels are in blocks; save the model unoptimised
com.microsoft.nchwc::Conv                   | refuse its channels are in blocks; save the model unoptimised
com.microsoft.nchwc::GlobalAveragePool      | refuse its channels are in blocks; save the model unoptimised
com.microsoft.nchwc::GlobalMaxPool          | refuse its channels are in blocks; save the model unoptimised
com.microsoft.nchwc::MaxPool                | refuse its channels are in blocks; save the model unoptimised
com.microsoft.nchwc::ReorderInput           | refuse its channels are in blocks; save the model unoptimised
com.microsoft.nchwc::ReorderOutput          | refuse its channels are in blocks; save the model unoptimised
com.microsoft.nchwc::Upsample               | refuse its channels are in blocks; save the model unoptimised

# states, packed tokens, fused layers, decoding loops, quantised
com.microsoft::AttnLSTM                     | refuse it keeps a state from call to call; export the model without a cache
com.microsoft::CausalConvWithState          | refuse it keeps a state from call to call; export the model without a cache
com.microsoft::DecoderAttention             | refuse it keeps a state from call to call; export the model without a cache
com.microsoft::DecoderMaskedMultiHeadAttention | refuse it keeps a state from call to call; export the model without a cache
com.microsoft::DecoderMaskedSelfAttention   | refuse it keeps a state from call to call; export the model without a cache
com.microsoft::GatedDeltaNet                | refuse it keeps a state from call to call; export the model without a cache
com.microsoft::LinearAttention              | refuse it keeps a state from call to call; export the model without a cache
com.microsoft::PagedAttention               | refuse it keeps a state from call to call; export the model without a cache
com.microsoft::SparseAttention              | refuse it keeps a state from call to call; export the model without a cache
com.microsoft::SparsePagedAttention         | refuse it keeps a state from call to call; export the model without a cache
com.microsoft::VarlenCausalConvWithState    | refuse it keeps a state from call to call; export the model without a cache
com.microsoft::DynamicSparseAttention       | refuse its tokens are packed without padding; save the model unoptimised
com.microsoft::LongformerAttention          | refuse its tokens are packed without padding; save the model unoptimised
com.microsoft::PackedAttention              | refuse its tokens are packed without padding; save the model unoptimised
com.microsoft::PackedMultiHeadAttention     | refuse its tokens are packed without padding; save the model unoptimised
com.microsoft::PackedSparseAttentionIndexer | refuse its tokens are packed without padding; save the model unoptimised
com.microsoft::RemovePadding                | refuse its tokens are packed without padding; save the model unoptimised
com.microsoft::RestorePadding               | refuse its tokens are packed without padding; save the model unoptimised
com.microsoft::SparseAttentionIndexer       | refuse its tokens are packed without padding; save the model unoptimised
com.microsoft::BiasDropout                  | refuse fused by onnxruntime; save the model unoptimised
com.microsoft::BiasSoftmax                  | refuse fused by onnxruntime; save the model unoptimised
com.microsoft::BiasSplitGelu                | refuse fused by onnxruntime; save the model unoptimised
com.microsoft::BitmaskBiasDropout           | refuse fused by onnxruntime; save the model unoptimised
com.microsoft::BitmaskDropout               | refuse fused by onnxruntime; save the model unoptimised
com.microsoft::BranchwiseRMSNorm            | refuse fused by onnxruntime; save the model unoptimised
com.microsoft::EngramGate                   | refuse fused by onnxruntime; save the model unoptimised
com.microsoft::GatedAdd                     | refuse fused by onnxruntime; save the model unoptimised
com.microsoft::GatedRMSNorm                 | refuse fused by onnxruntime; save the model unoptimised
com.microsoft::GatedRelativePositionBias    | refuse fused by onnxruntime; save the model unoptimised
com.microsoft::GemmFastGelu                 | refuse fused by onnxruntime; save the model unoptimised
com.microsoft::GemmaRotaryEmbedding         | refuse fused by onnxruntime; save the model unoptimised
com.microsoft::GroupNorm                    | refuse fused by onnxruntime; save the model unoptimised
com.microsoft::HyperConnectionPostMix       | refuse fused by onnxruntime; save the model unoptimised
com.microsoft::HyperConnectionPreMix        | refuse fused by onnxruntime; save the model unoptimised
com.microsoft::LinearAttentionGate          | refuse fused by onnxruntime; save the model unoptimised
com.microsoft::MRotaryEmbedding             | refuse fused by onnxruntime; save the model unoptimised
com.microsoft::MoE                          | refuse fused by onnxruntime; save the model unoptimised
com.microsoft::NhwcConv                     | refuse fused by onnxruntime; save the model unoptimised
com.microsoft::NhwcFusedConv                | refuse fused by onnxruntime; save the model unoptimised
com.microsoft::NhwcMaxPool                  | refuse fused by onnxruntime; save the model unoptimised
com.microsoft::RelativePositionBias         | refuse fused by onnxruntime; save the model unoptimised
com.microsoft::ScaledSiLU                   | refuse fused by onnxruntime; save the model unoptimised
com.microsoft::SkipGroupNorm                | refuse fused by onnxruntime; save the model unoptimised
com.microsoft::BeamSearch                   | refuse a decoding loop around networks of its own; split those
com.microsoft::GreedySearch                 | refuse a decoding loop around networks of its own; split those
com.microsoft::Sampling                     | refuse a decoding loop around networks of its own; split those
com.microsoft::WhisperBeamSearch            | refuse a decoding loop around networks of its own; split those
com.microsoft::DequantizeBFP                | refuse quantised; split the float model, and quantise what is merged
com.microsoft::DequantizeWithOrder          | refuse quantised; split the float model, and quantise what is merged
com.microsoft::GatherBlockQuantized         | refuse quantised; split the float model, and quantise what is merged
com.microsoft::GemmFloat8                   | refuse quantised; split the float model, and quantise what is merged
com.microsoft::MatMulBlockQuantizedFp4Weight | refuse quantised; split the float model, and quantise what is merged
com.microsoft::MatMulBlockQuantizedFp8Weight | refuse quantised; split the float model, and quantise what is merged
com.microsoft::MatMulNBitsMlp               | refuse quantised; split the float model, and quantise what is merged
com.microsoft::MatMulNBitsQkv               | refuse quantised; split the float model, and quantise what is merged
com.microsoft::MulInteger                   | refuse quantised; split the float model, and quantise what is merged
com.microsoft::QMoE                         | refuse quantised; split the float model, and quantise what is merged
com.microsoft::QOrderedAttention            | refuse quantised; split the float model, and quantise what is merged
com.microsoft::QOrderedGelu                 | refuse quantised; split the float model, and quantise what is merged
com.microsoft::QOrderedLayerNormalization   | refuse quantised; split the float model, and quantise what is merged
com.microsoft::QOrderedLongformerAttention  | refuse quantised; split the float model, and quantise what is merged
com.microsoft::QuantizeBFP                  | refuse quantised; split the float model, and quantise what is merged
com.microsoft::QuantizeWithOrder            | refuse quantised; split the float model, and quantise what is merged
com.microsoft::ReduceSumInteger             | refuse quantised; split the float model, and quantise what is merged
"""
