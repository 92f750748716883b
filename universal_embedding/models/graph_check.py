"""Refuses a SavedModel that could do more than embed: a graph is a program, and loading runs it.

Ops that read or write files, run Python, print, talk to other machines or end the process are not
on the list below, and whatever is not on it is refused: arithmetic, neural networks, images that
are given as bytes, control flow and variables are all that an embedding needs.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from universal_embedding.errors import UserError, printable

_ALLOWED_OPS = frozenset(
    """
    Abs AddN Add AddV2 AccumulateNV2 All Any ArgMax ArgMin BatchMatMul BatchMatMulV2 BatchMatMulV3
    BitwiseAnd BitwiseOr BitwiseXor Bucketize Cast Ceil ClipByValue Cos Cosh Cross Cumprod Cumsum
    CumulativeLogsumexp DenseBincount Div DivNoNan Einsum Equal Erf Erfc Erfinv EuclideanNorm Exp
    Expm1 Floor FloorDiv FloorMod Greater GreaterEqual Inv Invert IsFinite IsInf IsNan LeftShift
    Less LessEqual LinSpace Log Log1p LogicalAnd LogicalNot LogicalOr MatMul Max Maximum Mean Min
    Minimum Mod Mul MulNoNan Neg NotEqual Pow Prod Range RealDiv Reciprocal RightShift Rint Round
    Rsqrt SegmentMax SegmentMaxV2 SegmentMean SegmentMin SegmentMinV2 SegmentSum SegmentSumV2 Select
    SelectV2 Sigmoid Sign Sin Sinh Sqrt Square SquaredDifference Sub Sum Tan Tanh Acos Acosh Asin
    Asinh Atan Atan2 Atanh TruncateDiv TruncateMod UnsortedSegmentMax UnsortedSegmentMin
    UnsortedSegmentSum Xdivy Xlog1py Xlogy _FusedMatMul

    BatchToSpace BatchToSpaceND Bitcast BroadcastArgs BroadcastTo CheckNumerics CheckNumericsV2
    Concat ConcatOffset ConcatV2 Const DepthToSpace Dequantize Diag DiagPart EnsureShape ExpandDims
    ExtractImagePatches Fill Gather GatherNd GatherV2 GuaranteeConst Identity IdentityN
    InvertPermutation ListDiff LowerBound MatrixBandPart MatrixDiag MatrixDiagPart MatrixDiagPartV2
    MatrixDiagPartV3 MatrixDiagV2 MatrixDiagV3 MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3
    MirrorPad OneHot OnesLike Pack Pad PadV2 Placeholder PlaceholderWithDefault PreventGradient
    QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4 QuantizeV2 Rank Reshape
    Reverse ReverseSequence ReverseV2 ScatterNd Shape ShapeN Size Slice Snapshot SpaceToBatch
    SpaceToBatchND SpaceToDepth Split SplitV Squeeze StopGradient StridedSlice TensorScatterAdd
    TensorScatterMax TensorScatterMin TensorScatterSub TensorScatterUpdate Tile Transpose
    ConjugateTranspose Unique UniqueV2 UniqueWithCounts UniqueWithCountsV2 Unpack UnravelIndex
    UpperBound Where ZerosLike

    ApproxTopK AvgPool AvgPool3D BatchNormWithGlobalNormalization BiasAdd BiasAddV1 Conv Conv2D
    Conv2DBackpropInput Conv3D Conv3DBackpropInputV2 DataFormatDimMap DataFormatVecPermute
    DepthwiseConv2dNative Dilation2D Elu FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3
    FusedPadConv2D FusedResizeAndPadConv2D L2Loss LRN LeakyRelu LogSoftmax MaxPool MaxPool3D
    MaxPoolV2 MaxPoolWithArgmax NthElement Relu Relu6 Selu Softmax Softplus Softsign TopK TopKV2

    AdjustContrast AdjustContrastv2 AdjustHue AdjustSaturation CropAndResize DecodeAndCropJpeg
    DecodeBmp DecodeGif DecodeImage DecodeJpeg DecodePng DecodeWebP ExtractGlimpse ExtractGlimpseV2
    ExtractJpegShape HSVToRGB ImageProjectiveTransformV2 ImageProjectiveTransformV3 RGBToHSV
    ResizeArea ResizeBicubic ResizeBilinear ResizeNearestNeighbor ScaleAndTranslate
    DecodeBase64 Substr StringLength StatelessRandomUniform StatelessRandomUniformV2
    StatelessRandomNormal StatelessRandomNormalV2 StatelessRandomGetKeyCounter RandomUniform
    RandomStandardNormal

    BatchMatrixBandPart Cholesky MatrixInverse MatrixSolve MatrixTriangularSolve Qr SelfAdjointEigV2
    Svd

    Assert Case ControlTrigger Enter Exit For If LoopCond Merge NextIteration NoOp PartitionedCall
    StatefulPartitionedCall StatelessCase StatelessIf StatelessWhile Switch ToBool While
    EmptyTensorList TensorListConcat TensorListConcatV2 TensorListElementShape TensorListFromTensor
    TensorListGather TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack
    TensorListReserve TensorListResize TensorListScatter TensorListScatterIntoExistingList
    TensorListScatterV2 TensorListSetItem TensorListSplit TensorListStack TensorArrayV3
    TensorArrayCloseV3 TensorArrayConcatV3 TensorArrayGatherV3 TensorArrayReadV3
    TensorArrayScatterV3 TensorArraySizeV3 TensorArraySplitV3 TensorArrayWriteV3

    AssignVariableOp DisableCopyOnRead ReadVariableOp ResourceGather ResourceGatherNd VarHandleOp
    VarIsInitializedOp VariableShape _Arg _Retval
    """.split()  # noqa: SIM905 - a list of 300 strings would be three pages
)
# Of the graph and the functions that save and restore checkpoints: TensorFlow's loader reads the
# variables by itself and runs neither.
_SAVER_OPS = frozenset(
    ("MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename", "StaticRegexFullMatch")
    + ("StringJoin",)
)


def check_graph(directory: Path, source_path: str | Path) -> None:
    """Checks every op that loading or calling a SavedModel can run.

    Args:
        directory: A SavedModel directory.
        source_path: The path that errors name.

    Raises:
        UserError: The graph has another op, is damaged, or was written by TensorFlow 1.
    """
    try:
        saved = saved_model_pb2.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
    except (OSError, DecodeError) as error:
        raise UserError(
            f"{source_path} cannot be loaded as a SavedModel ({error}): export it again"
        ) from None
    for graph in saved.meta_graphs:
        if not graph.HasField("object_graph_def"):  # TensorFlow would run the whole graph
            raise UserError(
                f"{source_path} is a SavedModel of TensorFlow 1, which is not supported: save it "
                "with tf.saved_model.save"
            )
        library = {f.signature.name: f for f in graph.graph_def.library.function}
        roots = set(graph.object_graph_def.concrete_functions)
        callable_names = _reachable(roots, library)
        for name, function in library.items():
            saver_ops = frozenset() if name in callable_names else _SAVER_OPS
            _check_ops(function.node_def, _ALLOWED_OPS | saver_ops, source_path)
        _check_ops(graph.graph_def.node, _ALLOWED_OPS | _SAVER_OPS, source_path)


def _check_ops(nodes: Iterable[Any], allowed: frozenset[str], source_path: str | Path) -> None:
    for node in nodes:
        if node.op not in allowed:
            raise UserError(
                f"{source_path} has the op {printable(node.op)[:80]!r} in its graph, which an "
                "embedding does not need and which may touch files or run code: refused"
            )


def _reachable(roots: set[str], library: dict[str, Any]) -> set[str]:
    """Names of the functions that `roots` call, in any depth, and of their gradients."""
    found: set[str] = set()
    pending = list(roots)
    while pending:
        name = pending.pop()
        if name in found or name not in library:
            continue
        found.add(name)
        for node in library[name].node_def:
            if node.op in library:
                pending.append(node.op)
            for value in node.attr.values():
                pending += [value.func.name, *(function.name for function in value.list.func)]
    return found
