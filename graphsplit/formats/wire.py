"""The wire format of protobuf, as far as it takes to leave large tensors where they lie.

`skeleton` makes of a model file the same message without the bytes of its large tensors, each of which says instead
where in the file they are: reading a model then costs memory for its nodes, not for its weights.
"""

from __future__ import annotations

import onnx

IN_FILE = "graphsplit-bytes"
"""The key under which a tensor of a skeleton keeps `offset:length` of its bytes in the model file itself."""

LARGE = 4096

_RAW = "raw"
_NESTED: dict[str, dict[int, str]] = {
    "model": {onnx.ModelProto.GRAPH_FIELD_NUMBER: "graph"},
    "graph": {onnx.GraphProto.INITIALIZER_FIELD_NUMBER: "tensor", onnx.GraphProto.NODE_FIELD_NUMBER: "node"},
    "node": {onnx.NodeProto.ATTRIBUTE_FIELD_NUMBER: "attribute"},
    "attribute": {onnx.AttributeProto.T_FIELD_NUMBER: "tensor"},
    "tensor": {onnx.TensorProto.RAW_DATA_FIELD_NUMBER: _RAW},
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def bytes_tag(field: int) -> bytes:
    """What stands before the length of a field that holds bytes or a message."""
    return varint(field << 3 | _BYTES)


def skeleton(data: memoryview) -> bytes | memoryview:
    """The message in `data` without its large tensors' bytes; `data` itself where it does not look like a message."""
    try:
        return b"".join(_rewritten(data, 0, len(data), "model"))
    except (ValueError, IndexError):
        return data  # the parser will say what is wrong with it


def _rewritten(data: memoryview, start: int, end: int, kind: str) -> list[bytes]:
    """The message of a kind that lies between two bytes, in pieces."""
    pieces: list[bytes] = []
    position = copied = start
    while position < end:
        field = position
        key, position = _read_varint(data, position)
        wire = key & 7
        if wire == _VARINT:
            _, position = _read_varint(data, position)
        elif wire == _BYTES:
            length, body = _read_varint(data, position)
            position = body + length
            inner = _NESTED[kind].get(key >> 3)
            if inner is not None and length >= LARGE and position <= end:
                pieces.append(bytes(data[copied:field]))
                copied = position
                if inner == _RAW:
                    where = onnx.StringStringEntryProto(key=IN_FILE, value=f"{body}:{length}").SerializeToString()
                    field_number, content = onnx.TensorProto.EXTERNAL_DATA_FIELD_NUMBER, [where]
                else:
                    field_number, content = key >> 3, _rewritten(data, body, position, inner)
                pieces += [bytes_tag(field_number), varint(sum(map(len, content))), *content]
        else:
            position += {_FIXED64: 8, _FIXED32: 4}[wire] if wire in (_FIXED64, _FIXED32) else end
        if position > end:
            raise ValueError("a field ends after its message")
    pieces.append(bytes(data[copied:end]))
    return pieces


def _read_varint(data: memoryview, position: int) -> tuple[int, int]:
    """A number, and the position behind it."""
    number = shift = 0
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, position
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than ten bytes")
