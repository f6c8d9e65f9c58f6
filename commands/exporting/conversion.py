"""Converts a Keras model to the bytes of an ONNX and of a LiteRT file. The bytes depend on nothing but the model.

Both formats have one input, float32 pixels (B, H, W, C), and one output, probabilities (B, K), for any batch size B.
Both include the document that describes how a photo's bytes become pixels.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from commands.exporting.runtimes import INPUT, OUTPUT, holding_stderr
from darkroom.models.model_file import ZIP_EPOCH
from darkroom.pipeline.stage import StageError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

ONNX_PACKAGES = ("onnx", "tf2onnx", "onnxruntime")
LITERT_PACKAGES = ("ai_edge_litert",)
# The name of the document: in the metadata properties of ONNX, and as a file in the archive that ends a LiteRT file.
PREPARATION_ENTRY = "preparation"
BATCH = "batch"


def check_backend() -> None:
    """Check that the Keras backend can export to both formats.

    Raises:
        StageError: the backend is not TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise StageError(
            f"exporting needs the Keras backend tensorflow, got {keras.backend.backend()}; set "
            "KERAS_BACKEND=tensorflow, which loads the models of all backends"
        )


def convert_to_onnx(model: keras.Model, preparation: Mapping[str, Any]) -> bytes:
    """Convert a model to ONNX; `metadata_props` has the document as JSON, under the name "preparation"."""
    import onnx

    proto = onnx.load_model_from_string(convert(model, "onnx", ".onnx"))
    remove_redundant_reshapes(proto)
    normalize_names(proto, model.name)
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, {PREPARATION_ENTRY: format_document(preparation)})
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def convert_to_litert(model: keras.Model, preparation: Mapping[str, Any]) -> bytes:
    """Convert a model to LiteRT. A zip archive with the document as preparation.json follows the model in the same
    file, as for LiteRT's associated files: the interpreter reads the model, and `unzip` the document."""
    content = io.BytesIO(convert(model, "litert", ".tflite"))
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr(zipfile.ZipInfo(f"{PREPARATION_ENTRY}.json", ZIP_EPOCH), format_document(preparation))
    return content.getvalue()


def format_document(preparation: Mapping[str, Any]) -> str:
    return json.dumps(preparation, ensure_ascii=False, allow_nan=False)


def convert(model: keras.Model, file_format: str, extension: str) -> bytes:
    """Convert with Keras's own exporter, which prints a lot from native code and writes to a path only."""
    model = keras.models.clone_model(model, clone_function=make_convertible)
    # The dictionary's key names the output; otherwise each format would use its own name.
    named = keras.Model(model.inputs, {OUTPUT: model.outputs[0]}, name=model.name)
    signature = [keras.InputSpec(shape=model.input_shape, dtype="float32", name=INPUT)]
    with TemporaryDirectory(prefix="darkroom-export-") as folder, holding_stderr():
        path = Path(folder, f"model{extension}")
        named.export(str(path), format=file_format, verbose=False, input_signature=signature)
        return path.read_bytes()


def remove_redundant_reshapes(proto: "ModelProto") -> None:
    """Remove, in place, each Reshape whose input already has the target shape.

    tf2onnx leaves a varying number of them between layers with feature maps of one pixel.
    """
    import onnx

    inferred = onnx.shape_inference.infer_shapes(proto).graph
    shapes = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.input)
    }
    targets = {constant.name: constant for constant in proto.graph.initializer}
    outputs = {value.name for value in proto.graph.output}
    origins: dict[str, str] = {}
    for node in order_nodes(proto.graph):
        node.input[:] = [origins.get(value, value) for value in node.input]
        if node.op_type == "Reshape" and node.input[1] in targets and node.output[0] not in outputs:
            batch, *target = onnx.numpy_helper.to_array(targets[node.input[1]]).tolist()
            if batch == -1 and target == shapes.get(node.input[0], [])[1:]:
                origins[node.output[0]] = node.input[0]


def make_convertible(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer itself, or an equivalent one that tf2onnx can convert.

    A Normalization holds its mean and variance as tensors, which tf2onnx takes for additional inputs.
    """
    if not isinstance(layer, keras.layers.Normalization):
        return layer
    mean, variance = (np.asarray(values, np.float64)[0] for values in (layer.mean, layer.variance))
    scale = 1 / np.maximum(np.sqrt(variance), keras.config.epsilon())
    return keras.layers.Rescaling(scale.tolist(), (-mean * scale).tolist(), name=layer.name)


def normalize_names(proto: "ModelProto", name: str) -> None:
    """Rename and order nodes and constants in place, so that the same model always gives the same bytes: tf2onnx
    numbers names with a counter of the whole process, and takes some orders from a set.

    Nodes are sorted topologically, and named after their operation and their index; constants are numbered in the
    order of their first use.
    """
    import onnx

    graph = proto.graph
    constants = {constant.name: constant for constant in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]  # graph.input lists some constants too
    names = {value.name: value.name for value in (*inputs, *graph.output)} | {"": ""}
    nodes: list[NodeProto] = []
    used: list[TensorProto] = []
    for index, original in enumerate(order_nodes(graph)):
        for value in original.input:
            if value in constants and value not in names:
                names[value] = f"constant_{len(used)}"
                used.append(constants[value])
                used[-1].name = names[value]
        node = onnx.NodeProto()
        node.CopyFrom(original)
        node.name, node.doc_string = f"{node.op_type}_{index}", ""
        for number, value in enumerate(node.output):
            names.setdefault(value, f"{node.name}_{number}" if number else node.name)
        node.input[:] = [names[value] for value in node.input]
        node.output[:] = [names[value] for value in node.output]
        node.attribute.sort(key=lambda attribute: attribute.name)
        nodes.append(node)
    for tensor in (*inputs, *graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = BATCH
    graph.CopyFrom(onnx.GraphProto(name=name, node=nodes, initializer=used, input=inputs, output=graph.output))


def order_nodes(graph: "GraphProto") -> list["NodeProto"]:
    """The nodes that the output depends on in topological order, those of a node's first input before the others."""
    producers = {value: index for index, node in enumerate(graph.node) for value in node.output}
    ordered: dict[int, NodeProto] = {}
    waiting = [producers[value.name] for value in reversed(graph.output)]
    while waiting:  # a stack instead of recursion: networks are deeper than Python's recursion limit
        node = graph.node[waiting[-1]]
        missing = [producers[value] for value in node.input if value in producers and producers[value] not in ordered]
        if missing:
            waiting.append(missing[0])
        else:
            ordered.setdefault(waiting.pop(), node)
    return list(ordered.values())
