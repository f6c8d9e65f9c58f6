"""A Keras model in other formats: the bytes of an ONNX and of a LiteRT file, which depend on nothing but the model.

Both have one input, float32 pixels (B, H, W, C), and one output, probabilities (B, K), for any number of photos B; and
both carry the document that says how a photo's bytes become pixels.
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

from commands.exporting.runtimes import INPUT, OUTPUT, hold_stderr
from darkroom.models.model_file import ZIP_EPOCH
from darkroom.pipeline.stage import StageError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

ONNX_PACKAGES = ("onnx", "tf2onnx", "onnxruntime")
LITERT_PACKAGES = ("ai_edge_litert",)
# What the document is called: in the properties of ONNX, and as a file in the archive behind LiteRT.
PREPARATION_ENTRY = "preparation"
BATCH = "batch"


def check_backend() -> None:
    """Refuse a backend of Keras that cannot export to both formats.

    Raises:
        StageError: it is not TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise StageError(
            f"exports need Keras's backend tensorflow, got {keras.backend.backend()}; set KERAS_BACKEND=tensorflow, "
            "which reads the models of all backends"
        )


def convert_to_onnx(model: keras.Model, preparation: Mapping[str, Any]) -> bytes:
    """Convert a model; `preparation` is in the file's `metadata_props`, as JSON under the name "preparation"."""
    import onnx

    proto = onnx.load_model_from_string(convert(model, "onnx", ".onnx"))
    drop_idle_reshapes(proto)
    settle_names(proto, model.name)
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, {PREPARATION_ENTRY: format_document(preparation)})
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def convert_to_litert(model: keras.Model, preparation: Mapping[str, Any]) -> bytes:
    """Convert a model; `preparation` is a zip archive's preparation.json behind it, as LiteRT's metadata has files.

    The interpreter reads the model, and `unzip` the document.
    """
    content = io.BytesIO(convert(model, "litert", ".tflite"))
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr(zipfile.ZipInfo(f"{PREPARATION_ENTRY}.json", ZIP_EPOCH), format_document(preparation))
    return content.getvalue()


def format_document(preparation: Mapping[str, Any]) -> str:
    return json.dumps(preparation, ensure_ascii=False, allow_nan=False)


def convert(model: keras.Model, file_format: str, ending: str) -> bytes:
    """Convert with Keras's own exporter, that prints much natively, and takes names and no file objects."""
    model = keras.models.clone_model(model, clone_function=rewrite_layer)
    # The key of a dictionary is the output's name; without it the formats have one each.
    named = keras.Model(model.inputs, {OUTPUT: model.outputs[0]}, name=model.name)
    signature = [keras.InputSpec(shape=model.input_shape, dtype="float32", name=INPUT)]
    with TemporaryDirectory(prefix="darkroom-export-") as folder, hold_stderr():
        path = Path(folder, f"model{ending}")
        named.export(str(path), format=file_format, verbose=False, input_signature=signature)
        return path.read_bytes()


def drop_idle_reshapes(proto: "ModelProto") -> None:
    """Remove, in place, each Reshape to the shape that there is already.

    tf2onnx leaves them between layers whose maps are one pixel large: sometimes more, sometimes fewer.
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


def rewrite_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer itself, or another that computes the same and can be converted.

    What a Normalization subtracts and divides by are tensors of its own, which tf2onnx takes for further inputs.
    """
    if not isinstance(layer, keras.layers.Normalization):
        return layer
    mean, variance = (np.asarray(values, np.float64)[0] for values in (layer.mean, layer.variance))
    scale = 1 / np.maximum(np.sqrt(variance), keras.config.epsilon())
    return keras.layers.Rescaling(scale.tolist(), (-mean * scale).tolist(), name=layer.name)


def settle_names(proto: "ModelProto", name: str) -> None:
    """Rename and order, in place, all that tf2onnx counts through a process or takes from a set.

    Nodes come in the order in which the output asks for them, and are called by what they do and their place in it;
    constants are called by the place of their first use.
    """
    import onnx

    graph = proto.graph
    constants = {constant.name: constant for constant in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]  # which some constants are among
    names = {value.name: value.name for value in (*inputs, *graph.output)} | {"": ""}
    nodes: list[NodeProto] = []
    used: list[TensorProto] = []
    for place, original in enumerate(order_nodes(graph)):
        for value in original.input:
            if value in constants and value not in names:
                names[value] = f"constant_{len(used)}"
                used.append(constants[value])
                used[-1].name = names[value]
        node = onnx.NodeProto()
        node.CopyFrom(original)
        node.name, node.doc_string = f"{node.op_type}_{place}", ""
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
    """The nodes that the output depends on, each behind those that it reads from, its first input's before others."""
    makers = {value: place for place, node in enumerate(graph.node) for value in node.output}
    ordered: dict[int, NodeProto] = {}
    waiting = [makers[value.name] for value in reversed(graph.output)]
    while waiting:  # a stack of our own: networks are deeper than Python's
        node = graph.node[waiting[-1]]
        unmade = [makers[value] for value in node.input if value in makers and makers[value] not in ordered]
        if unmade:
            waiting.append(unmade[0])
        else:
            ordered.setdefault(waiting.pop(), node)
    return list(ordered.values())
