"""The formats that a model can be exported to."""

from enum import StrEnum


class Format(StrEnum):
    ONNX = "onnx"
    LITERT = "litert"
