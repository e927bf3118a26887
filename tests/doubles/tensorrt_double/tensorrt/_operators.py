"""What TensorRT's ONNX parser makes of each operator; one that is not here is refused."""

from __future__ import annotations

from typing import Dict

_WEIGHTED = {
    "Conv": "CONVOLUTION",
    "ConvTranspose": "DECONVOLUTION",
    "Gemm": "MATRIX_MULTIPLY",
    "MatMul": "MATRIX_MULTIPLY",
}
_POINTWISE = "Add Sub Mul Div Pow Max Min And Or Xor Equal Greater Less GreaterOrEqual LessOrEqual Sum Mean Mod PRelu"
_UNARY = (
    "Abs Neg Sqrt Exp Log Floor Ceil Round Erf Not Reciprocal Sin Cos Tan Sign IsNaN IsInf Sinh Cosh Atan Asin Acos"
)
_ACTIVATIONS = (
    "Relu LeakyRelu Clip Sigmoid Tanh Elu Selu HardSigmoid HardSwish Softplus Softsign ThresholdedRelu Gelu Mish"
)
_REDUCTIONS = "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSumExp ReduceSumSquare"
_SHUFFLES = "Reshape Transpose Flatten Squeeze Unsqueeze DepthToSpace SpaceToDepth"
_POOLS = "MaxPool AveragePool LpPool"
_NORMALS = "InstanceNormalization LayerNormalization GroupNormalization"
_OTHERS: Dict[str, str] = {
    "BatchNormalization": "SCALE",
    "GlobalAveragePool": "REDUCE",
    "GlobalMaxPool": "REDUCE",
    "Softmax": "SOFTMAX",
    "LogSoftmax": "SOFTMAX",
    "Concat": "CONCATENATION",
    "Split": "SLICE",
    "Slice": "SLICE",
    "Pad": "SLICE",
    "Tile": "SLICE",
    "Expand": "SLICE",
    "Gather": "GATHER",
    "GatherND": "GATHER",
    "GatherElements": "GATHER",
    "ScatterND": "SCATTER",
    "ScatterElements": "SCATTER",
    "Resize": "RESIZE",
    "Upsample": "RESIZE",
    "LRN": "LRN",
    "TopK": "TOPK",
    "ArgMax": "TOPK",
    "ArgMin": "TOPK",
    "Where": "SELECT",
    "Shape": "SHAPE",
    "Size": "SHAPE",
    "Constant": "CONSTANT",
    "ConstantOfShape": "FILL",
    "Range": "FILL",
    "Identity": "IDENTITY",
    "Dropout": "IDENTITY",
    "Cast": "IDENTITY",
    "CastLike": "IDENTITY",
    "Einsum": "EINSUM",
    "NonMaxSuppression": "NMS",
    "NonZero": "NON_ZERO",
    "OneHot": "ONE_HOT",
    "GridSample": "GRID_SAMPLE",
    "QuantizeLinear": "QUANTIZE",
    "DequantizeLinear": "DEQUANTIZE",
    "CumSum": "LOOP_OUTPUT",
    "If": "CONDITION",
    "Loop": "LOOP_OUTPUT",
    "Scan": "LOOP_OUTPUT",
    "LSTM": "LOOP_OUTPUT",
    "GRU": "LOOP_OUTPUT",
    "RNN": "LOOP_OUTPUT",
    "Trilu": "SELECT",
    "ReverseSequence": "SLICE",
}

LAYERS: Dict[str, str] = {
    **_WEIGHTED,
    **dict.fromkeys(_POINTWISE.split(), "ELEMENTWISE"),
    **dict.fromkeys(_UNARY.split(), "UNARY"),
    **dict.fromkeys(_ACTIVATIONS.split(), "ACTIVATION"),
    **dict.fromkeys(_REDUCTIONS.split(), "REDUCE"),
    **dict.fromkeys(_SHUFFLES.split(), "SHUFFLE"),
    **dict.fromkeys(_POOLS.split(), "POOLING"),
    **dict.fromkeys(_NORMALS.split(), "NORMALIZATION"),
    **_OTHERS,
}
"""ONNX operator to the name of the layer's type."""

WEIGHTED = frozenset(_WEIGHTED)
"""Operators that carry weights: a kernel of their own, and what INT8 is for."""

_DLA = "CONVOLUTION DECONVOLUTION POOLING ACTIVATION ELEMENTWISE SCALE CONCATENATION RESIZE LRN SLICE"

ON_DLA = frozenset(_DLA.split())
"""Layers that the deep learning accelerator takes."""
