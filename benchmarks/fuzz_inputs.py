"""How bytes of a fuzzer become a file that is damaged where it matters: JSON, TOML, safetensors, zip archives."""

from __future__ import annotations

import copy
import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

Change = Callable[[bytes, "Draws"], bytes]
"""From a valid file and draws to another one."""

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 10, 255, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**30, 10**299, 10**400),
    *(0.5, -0.0, 1e-320, 1e39, 1e300, -1.5, float("nan"), float("inf"), [], {}, [[]], [0], [1, 2, 3], {"a": 1}),
    *("", "a", "0", "-1", "nan", "1e999", "../../etc", "\x1b[2J", "\u202e", "\ud800", "\0", "x" * 5000, "٣", "²"),
    *("9" * 5000, "I64", "F32", "F8_E4M3", "hard", "soft", "targets", "pixels", "input", "mtt", "digits", "sgd"),
)
"""What is put in the place of a value."""


class Draws:
    """Numbers out of bytes, in turn; zeros when these are used up."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def number(self, below: int) -> int:
        """From 0 to ``below - 1``, of two bytes."""
        part = self.data[self.at : self.at + 2]
        self.at += 2
        return int.from_bytes(part, "little") % max(below, 1)

    def left(self) -> bool:
        """Whether there are bytes left."""
        return self.at < len(self.data)

    def value(self) -> Any:
        """An odd value, or a number or text of the bytes themselves."""
        which = self.number(len(ODD) + 20)
        if which < len(ODD):
            return copy.deepcopy(ODD[which])
        if which % 2:
            return self.number(2**16) - 2**15
        size = self.number(12)
        self.at += size
        return self.data[self.at - size : self.at].decode("latin1")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Path to every part of a JSON value but itself."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(part, (*path, key))


def inside(value: Any, path: tuple[Any, ...]) -> Any:
    """The part at a path."""
    for key in path:
        value = value[key]
    return value


def changed(value: Any, draws: Draws) -> Any:
    """A JSON value after one to four changes of its parts; the value itself is left alone."""
    value = copy.deepcopy(value)
    for _ in range(4):
        found = list(places(value))
        if not found:
            return draws.value()
        *parents, key = found[draws.number(len(found))]
        holder, act = inside(value, tuple(parents)), draws.number(8)
        if act == 0:
            del holder[key]
        elif act == 1 and isinstance(holder, dict):
            holder[str(draws.value())] = draws.value()
        elif act == 2 and isinstance(holder, list):
            holder += [copy.deepcopy(holder[key])] * (1 + draws.number(3))
        elif act == 3:
            holder[key] = copy.deepcopy(inside(value, found[draws.number(len(found))]))
        elif act == 4:
            holder[key] = [holder[key]]
        else:
            holder[key] = draws.value()
        if not draws.left():
            break
    return value


def json_file(valid: bytes, draws: Draws) -> bytes:
    """A JSON file with changed parts."""
    return json.dumps(changed(json.loads(valid), draws)).encode("utf-8", "surrogatepass")


def toml_file(valid: bytes, draws: Draws) -> bytes:
    """A TOML file with changed parts, a line a key of the top."""
    import tomllib

    table = changed(tomllib.loads(valid.decode()), draws)
    if not isinstance(table, dict):
        return str(table).encode("utf-8", "surrogatepass")
    lines = (f"{json.dumps(str(key))} = {_toml(value)}" for key, value in table.items())
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {_toml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, float):
        return {"nan": "nan", "inf": "inf"}.get(repr(value), repr(value))
    return '""' if value is None else json.dumps(value)


WIDTHS = {"BOOL": 1, "U8": 1, "I8": 1, "F16": 2, "BF16": 2, "I16": 2, "F32": 4, "I32": 4, "F64": 8, "I64": 8, "U64": 8}


def safetensors_file(valid: bytes, draws: Draws) -> bytes:
    """A safetensors file with another header, or with tensors of other types, shapes and values that are whole."""
    (length,) = struct.unpack("<Q", valid[:8])
    table = json.loads(valid[8 : 8 + length])
    metadata = table.pop("__metadata__")
    if draws.number(3):
        metadata = {"ddbench": json.dumps(changed(json.loads(metadata["ddbench"]), draws))}
    body = valid[8 + length :]
    tensors = {name: (one["dtype"], one["shape"], body[slice(*one["data_offsets"])]) for name, one in table.items()}
    for _ in range(draws.number(3)):
        name = (*table, "extra", "lr", "stage")[draws.number(len(table) + 3)]
        dtype = [*WIDTHS][draws.number(len(WIDTHS))]
        shape = [draws.number(5) for _ in range(draws.number(5))]
        if name in tensors and draws.number(2):
            dtype, shape = tensors[name][:2]
        count = WIDTHS[dtype]
        for side in shape:
            count *= side
        fill = bytes([draws.number(256) % (2 if dtype == "BOOL" else 256)])
        tensors[name] = (dtype, shape, fill * count)
        if draws.number(3) == 0:
            tensors.pop(name)
    entries: dict[str, Any] = {"__metadata__": metadata}
    content = b""
    for name, (dtype, shape, values) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(content), len(content) + len(values)]}
        content += values
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + content


def bytes_changed(valid: bytes, draws: Draws) -> bytes:
    """Some bytes replaced, taken out or put in."""
    data = bytearray(valid)
    for _ in range(1 + draws.number(6)):
        at, act = draws.number(len(data) + 1), draws.number(4)
        if act == 0:
            del data[at : at + draws.number(9)]
        elif act == 1:
            data[at:at] = bytes(draws.number(256) for _ in range(draws.number(9)))
        else:
            data[at : at + 1] = bytes([draws.number(256)])
    return bytes(data)


def zip_file(valid: bytes, draws: Draws) -> bytes:
    """An archive whose checksums hold, with changed members."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(valid)) as source, zipfile.ZipFile(packed, "w") as target:
        members = source.infolist()
        chosen = draws.number(len(members))
        for number, member in enumerate(members):
            data = source.read(member)
            if number == chosen:
                act = draws.number(6)
                if act == 0:
                    continue
                data = bytes_changed(data[:256], draws) + data[256:]
            target.writestr(member.filename, data)
    return packed.getvalue()
