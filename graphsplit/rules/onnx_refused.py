"""ONNX ops that are refused whatever their shapes, each with the reason and what to do instead."""

TABLE = r"""
# control flow
If                    | refuse control flow has a graph of its own; export the model with it unrolled or folded
Loop                  | refuse control flow has a graph of its own; export the model with it unrolled or folded
Scan                  | refuse control flow has a graph of its own; export the model with it unrolled or folded

# sequences and optionals
ConcatFromSequence    | refuse sequences and optionals have no axes; export the model with plain tensors
Optional              | refuse sequences and optionals have no axes; export the model with plain tensors
OptionalGetElement    | refuse sequences and optionals have no axes; export the model with plain tensors
OptionalHasElement    | refuse sequences and optionals have no axes; export the model with plain tensors
SequenceAt            | refuse sequences and optionals have no axes; export the model with plain tensors
SequenceConstruct     | refuse sequences and optionals have no axes; export the model with plain tensors
SequenceEmpty         | refuse sequences and optionals have no axes; export the model with plain tensors
SequenceErase         | refuse sequences and optionals have no axes; export the model with plain tensors
SequenceInsert        | refuse sequences and optionals have no axes; export the model with plain tensors
SequenceLength        | refuse sequences and optionals have no axes; export the model with plain tensors
SequenceMap           | refuse sequences and optionals have no axes; export the model with plain tensors
SplitToSequence       | refuse sequences and optionals have no axes; export the model with plain tensors

# quantised
ConvInteger           | refuse quantised; split the float model, and quantise what is merged
DequantizeLinear      | refuse quantised; split the float model, and quantise what is merged
DynamicQuantizeLinear | refuse quantised; split the float model, and quantise what is merged
MatMulInteger         | refuse quantised; split the float model, and quantise what is merged
QLinearConv           | refuse quantised; split the float model, and quantise what is merged
QLinearMatMul         | refuse quantised; split the float model, and quantise what is merged
QuantizeLinear        | refuse quantised; split the float model, and quantise what is merged

# random numbers that depend on data
Bernoulli             | refuse what is drawn differs from part to part; cut the model before it
Multinomial           | refuse what is drawn differs from part to part; cut the model before it

# strings and files
ImageDecoder          | refuse it reads strings or encoded files, not numbers; cut the model behind it
RegexFullMatch        | refuse it reads strings or encoded files, not numbers; cut the model behind it
StringConcat          | refuse it reads strings or encoded files, not numbers; cut the model behind it
StringNormalizer      | refuse it reads strings or encoded files, not numbers; cut the model behind it
StringSplit           | refuse it reads strings or encoded files, not numbers; cut the model behind it
TfIdfVectorizer       | refuse it reads strings or encoded files, not numbers; cut the model behind it

# trees, vectors and other classical models
ai.onnx.ml::ArrayFeatureExtractor | refuse classical machine learning has no layers of neurons
ai.onnx.ml::Binarizer | refuse classical machine learning has no layers of neurons
ai.onnx.ml::CastMap | refuse classical machine learning has no layers of neurons
ai.onnx.ml::CategoryMapper | refuse classical machine learning has no layers of neurons
ai.onnx.ml::DictVectorizer | refuse classical machine learning has no layers of neurons
ai.onnx.ml::FeatureVectorizer | refuse classical machine learning has no layers of neurons
ai.onnx.ml::Imputer | refuse classical machine learning has no layers of neurons
ai.onnx.ml::LabelEncoder | refuse classical machine learning has no layers of neurons
ai.onnx.ml::LinearClassifier | refuse classical machine learning has no layers of neurons
ai.onnx.ml::LinearRegressor | refuse classical machine learning has no layers of neurons
ai.onnx.ml::Normalizer | refuse classical machine learning has no layers of neurons
ai.onnx.ml::OneHotEncoder | refuse classical machine learning has no layers of neurons
ai.onnx.ml::SVMClassifier | refuse classical machine learning has no layers of neurons
ai.onnx.ml::SVMRegressor | refuse classical machine learning has no layers of neurons
ai.onnx.ml::Scaler | refuse classical machine learning has no layers of neurons
ai.onnx.ml::TreeEnsemble | refuse classical machine learning has no layers of neurons
ai.onnx.ml::TreeEnsembleClassifier | refuse classical machine learning has no layers of neurons
ai.onnx.ml::TreeEnsembleRegressor | refuse classical machine learning has no layers of neurons
ai.onnx.ml::ZipMap | refuse classical machine learning has no layers of neurons

# training
ai.onnx.preview.training::Adagrad | refuse a training graph; split the inference graph that it was made from
ai.onnx.preview.training::Adam | refuse a training graph; split the inference graph that it was made from
ai.onnx.preview.training::Gradient | refuse a training graph; split the inference graph that it was made from
ai.onnx.preview.training::Momentum | refuse a training graph; split the inference graph that it was made from
"""
