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

# fused or quantised by onnxruntime
com.microsoft::FusedConv                    | refuse a layer with its activation in it; save the model unoptimised
com.microsoft::FusedGemm                    | refuse a layer with its activation in it; save the model unoptimised
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
"""
