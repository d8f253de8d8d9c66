"""What ``hostile.py`` does to valid files: whole files that are none, and contents of each form that cannot be."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

Place = Callable[[Path], None]
"""Puts something in the place of a file that is there."""
Content = Callable[[bytes], bytes]
"""Another content of a file."""


def _replaced(make: Callable[[Path], object]) -> Place:
    def call(path: Path) -> None:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        make(path)

    return call


def _sparse(path: Path) -> None:
    with path.open("wb") as handle:
        handle.truncate(6 * 2**30)


NO_FILES: dict[str, Place] = {
    "a folder in its place": _replaced(Path.mkdir),
    "a named pipe": _replaced(os.mkfifo),
    "a link to /dev/zero": _replaced(lambda path: path.symlink_to("/dev/zero")),
    "a link to itself": _replaced(lambda path: path.symlink_to(path.name)),
    "6 GiB of nothing": _replaced(_sparse),
}
"""For every file."""

BYTES: dict[str, Content] = {
    "empty": lambda _: b"",
    "half of it": lambda data: data[: len(data) // 2],
    "other bytes": lambda data: zlib.compress(data)[:4000] * 2,
    "twice": lambda data: data + data,
}
"""For every file."""


# JSON


def _deep(depth: int) -> str:
    return "[" * depth + "]" * depth


def walked(value: Any, change: Callable[[Any], Any]) -> Any:
    """A JSON value with another value in the place of every leaf."""
    if isinstance(value, dict):
        return {key: walked(part, change) for key, part in value.items()}
    if isinstance(value, list):
        return [walked(part, change) for part in value]
    return change(value)


def _number(value: Any, other: Any) -> Any:
    return other if isinstance(value, int | float) and not isinstance(value, bool) else value


def _text(value: Any, other: Any) -> Any:
    return other if isinstance(value, str) else value


def _lists(value: Any, change: Callable[[list[Any]], Any]) -> Any:
    if isinstance(value, dict):
        return {key: _lists(part, change) for key, part in value.items()}
    return change([_lists(part, change) for part in value]) if isinstance(value, list) else value


VALUES: dict[str, Callable[[Any], Any]] = {
    "a list": lambda value: [value],
    "every number as text": lambda value: walked(value, lambda one: _number(one, str(one))),
    "every number of 400 digits": lambda value: walked(value, lambda one: _number(one, 10**400)),
    "every number negative": lambda value: walked(value, lambda one: _number(one, -1)),
    "every number NaN": lambda value: walked(value, lambda one: _number(one, float("nan"))),
    "every number true": lambda value: walked(value, lambda one: _number(one, True)),
    "every text a number": lambda value: walked(value, lambda one: _text(one, 7)),
    "every text of control characters": lambda value: walked(value, lambda one: _text(one, "\x1b[2J\0\u202e\n")),
    "every text half a character": lambda value: walked(value, lambda one: _text(one, "\ud800")),
    "every text a path": lambda value: walked(value, lambda one: _text(one, "../../../../etc/passwd")),
    "every text of a megabyte": lambda value: walked(value, lambda one: _text(one, "x" * 2**20)),
    "nothing but null": lambda value: walked(value, lambda _: None),
    "every list empty": lambda value: _lists(value, lambda _: []),
    "every list a table": lambda value: _lists(value, lambda parts: dict(enumerate(map(str, parts)))),
    "every list in a list": lambda value: _lists(value, lambda parts: [parts]),
    "without its first half": lambda value: dict(list(value.items())[len(value) // 2 :]),
    "without its second half": lambda value: dict(list(value.items())[: len(value) // 2]),
    "with unknown keys": lambda value: {**value, "": 1, "__class__": {}, "x" * 300: [], "\0": None},
}
"""Of a table."""


def _json(change: Callable[[Any], Any]) -> Content:
    return lambda data: json.dumps(change(json.loads(data))).encode("utf-8", "surrogatepass")


JSON: dict[str, Content] = {
    **{name: _json(change) for name, change in VALUES.items()},
    "lists 100,000 deep": lambda _: _deep(100_000).encode(),
    "lists deep inside": lambda data: data.rstrip()[:-1] + b', "deep": ' + _deep(5000).encode() + b"}",
    "keys twice": lambda data: data.rstrip()[:-1] + b"," + data.lstrip()[1:],
    "in UTF-16": lambda data: data.decode().encode("utf-16"),
    "numbers beyond range": lambda data: data.rstrip()[:-1] + b', "a": 1e999, "b": -1e999, "c": 123456789e400}',
}


# TOML

TOML: dict[str, Content] = {
    "every number in text": lambda data: _lines(data, lambda key, value: f"{key} = '{value}'"),
    "every value a date": lambda data: _lines(data, lambda key, _: f"{key} = 1979-05-27T07:32:00Z"),
    "every value an empty list": lambda data: _lines(data, lambda key, _: f"{key} = []"),
    "every value an empty table": lambda data: _lines(data, lambda key, _: f"{key} = {{}}"),
    "every value nan": lambda data: _lines(data, lambda key, _: f"{key} = nan"),
    "every value of 400 digits": lambda data: _lines(data, lambda key, _: f"{key} = 1{'0' * 400}"),
    "every value of a megabyte": lambda data: _lines(data, lambda key, _: f'{key} = "{"x" * 2**20}"'),
    "every value of odd characters": lambda data: _lines(data, lambda key, _: f'{key} = "\\u202e\\u0000\\u001b[2J"'),
    "every value nested": lambda data: _lines(data, lambda key, _: f"{key} = {_deep(3000)}"),
    "lines twice": lambda data: b"\n".join(line for line in data.splitlines() for _ in (0, 1)),
    "keys a thousand deep": lambda data: data + b"\n" + b".".join([b"a"] * 1000) + b" = 1\n",
    "20,000 tables": lambda data: data + b"".join(b"\n[[more]]\nn = %d\n" % number for number in range(20_000)),
    "not in UTF-8": lambda data: data + b'\nnote2 = "\xff\xfe"\n',
    "no line ends": lambda data: data.replace(b"\n", b" "),
}


def _lines(data: bytes, change: Callable[[str, str], str]) -> bytes:
    found = []
    for line in data.decode().splitlines():
        key, equals, value = line.partition(" = ")
        found.append(change(key, value) if equals else line)
    return "\n".join(found).encode()


# safetensors


def _opened(data: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _closed(table: Any, body: bytes) -> bytes:
    text = (table if isinstance(table, str) else json.dumps(table)).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def _entries(change: Callable[[str, dict[str, Any]], dict[str, Any]]) -> Content:
    def call(data: bytes) -> bytes:
        table, body = _opened(data)
        return _closed({key: one if key == "__metadata__" else change(key, one) for key, one in table.items()}, body)

    return call


def _header(change: Callable[[Any], Any]) -> Content:
    def call(data: bytes) -> bytes:
        table, body = _opened(data)
        metadata = {key: _changed_text(text, change) for key, text in table["__metadata__"].items()}
        return _closed({**table, "__metadata__": metadata}, body)

    return call


def _changed_text(text: str, change: Callable[[Any], Any]) -> str:
    try:
        return json.dumps(change(json.loads(text)))
    except (ValueError, AttributeError, TypeError):
        return text


def _filled(pattern: bytes) -> Content:
    def call(data: bytes) -> bytes:
        table, body = _opened(data)
        return _closed(table, (pattern * (len(body) // len(pattern) + 1))[: len(body)])

    return call


def _metadata(value: Any) -> Content:
    def call(data: bytes) -> bytes:
        table, body = _opened(data)
        return _closed({**table, "__metadata__": value}, body)

    return call


def _renamed(data: bytes) -> bytes:
    table, body = _opened(data)
    return _closed({key if key == "__metadata__" else key + "\u202e": one for key, one in table.items()}, body)


def _one_more(data: bytes) -> bytes:
    table, body = _opened(data)
    entry = {"dtype": "F64", "shape": [4], "data_offsets": [len(body), len(body) + 32]}
    return _closed({**table, "extra": entry}, body + bytes(32))


def _one_less(data: bytes) -> bytes:
    table, body = _opened(data)
    names = [key for key in table if key != "__metadata__"]
    last = max(names, key=lambda name: table[name]["data_offsets"][0])
    begin = table.pop(last)["data_offsets"][0]
    return _closed(table, body[:begin])


TENSORS: dict[str, Content] = {
    "a header of 2^63 bytes": lambda data: struct.pack("<Q", 2**63) + data[8:],
    "a header longer than the file": lambda data: struct.pack("<Q", len(data)) + data[8:],
    "a header that is a list": lambda data: _closed([], _opened(data)[1]),
    "a header 50,000 deep": lambda data: _closed(_deep(50_000), _opened(data)[1]),
    "tensors over each other": _entries(lambda _, one: {**one, "data_offsets": [0, 8]}),
    "tensors beyond the end": _entries(lambda _, one: {**one, "data_offsets": [2**40, 2**40 + 8]}),
    "shapes that wrap round": _entries(lambda _, one: {**one, "shape": [2**32, 2**32]}),
    "shapes of negative sides": _entries(lambda _, one: {**one, "shape": [-side for side in one["shape"]]}),
    "shapes turned round": _entries(lambda _, one: {**one, "shape": one["shape"][::-1]}),
    "flat shapes": _entries(lambda _, one: {**one, "shape": [_product(one["shape"])]}),
    "deep shapes": _entries(lambda _, one: {**one, "shape": [1] * 60 + one["shape"]}),
    "types that are none": _entries(lambda _, one: {**one, "dtype": "F7"}),
    "integers for floats": _entries(lambda _, one: {**one, "dtype": one["dtype"].replace("F", "I")}),
    "floats for integers": _entries(lambda _, one: {**one, "dtype": one["dtype"].replace("I", "F")}),
    "other names": _renamed,
    "one tensor more": _one_more,
    "one tensor less": _one_less,
    "nothing but zeros": _filled(b"\0"),
    "nothing but NaN": _filled(b"\xff"),
    "infinities": _filled(struct.pack("<f", float("inf"))),
    "3e38": _filled(struct.pack("<f", 3e38)),
    "no metadata": _metadata({}),
    "metadata of numbers": _metadata({"ddbench": 7}),
    "metadata that is no JSON": _metadata({"ddbench": "{"}),
    "metadata 50,000 deep": _metadata({"ddbench": _deep(50_000)}),
    **{f"metadata: {name}": _header(change) for name, change in VALUES.items()},
}


def _product(sides: list[int]) -> int:
    found = 1
    for side in sides:
        found *= side
    return found


# archives: npz, and what torch writes


def _members(change: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]) -> Content:
    def call(data: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(data)) as source:
            members = [(one.filename, source.read(one)) for one in source.infolist()]
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as target, warnings.catch_warnings(action="ignore"):  # names twice
            for name, content in change(members):
                target.writestr(name, content)
        return made.getvalue()

    return call


def _each(change: Content) -> Content:
    return _members(lambda members: [(name, change(content)) for name, content in members])


def _heads(text: str) -> Content:
    """Other heads of arrays; members that are none stay."""

    def change(data: bytes) -> bytes:
        if data[:6] != b"\x93NUMPY":
            return data
        (length,) = struct.unpack("<H", data[8:10])
        head = text.encode("latin1").ljust(length - 1) + b"\n"
        return data[:8] + struct.pack("<H", len(head)) + head + data[10 + length :]

    return _each(change)


def _array(head: str) -> str:
    return f"{{'descr': {head}, }}"


ARCHIVE: dict[str, Content] = {
    "members twice": _members(lambda members: members * 2),
    "without its first member": _members(lambda members: members[1:]),
    "without its last member": _members(lambda members: members[:-1]),
    "no members": _members(lambda _: []),
    "names that climb": _members(lambda members: [(f"../../{name}", content) for name, content in members]),
    "empty members": _each(lambda _: b""),
    "half members": _each(lambda data: data[: len(data) // 2]),
    "a member of 1.5 GB packed small": lambda data: _bomb(data),
    "a wrong checksum": lambda data: data.replace(data[14:18], b"\1\2\3\4", 1),
    "said to be encrypted": lambda data: data[:6] + b"\1" + data[7:],
}
ARRAYS: dict[str, Content] = {
    "arrays of objects": _heads(_array("'|O', 'fortran_order': False, 'shape': (4,)")),
    "arrays of dates": _heads(_array("'<M8[ns]', 'fortran_order': False, 'shape': (4,)")),
    "arrays of records": _heads(_array("[('a', '<f4')], 'fortran_order': False, 'shape': (4,)")),
    "arrays of 10^15 numbers": _heads(_array(f"'|u1', 'fortran_order': False, 'shape': ({10**15},)")),
    "shapes that wrap round": _heads(_array("'|u1', 'fortran_order': False, 'shape': (4294967296, 4294967296)")),
    "negative shapes": _heads(_array("'|u1', 'fortran_order': False, 'shape': (-4, -8, -8)")),
    "no shapes": _heads(_array("'|u1', 'fortran_order': False, 'shape': ()")),
    "shapes of text": _heads(_array("'|u1', 'fortran_order': 7, 'shape': 'abc'")),
    "a head that is a call": _heads("__import__('os').getcwd()"),
    "a head that is nested": _heads("(" * 4000),
}


def _bomb(data: bytes) -> bytes:
    """The last member, with zeros behind it."""
    made = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as source,
        zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target,
    ):
        *others, last = source.infolist()
        for one in others:
            target.writestr(one.filename, source.read(one))
        with target.open(last.filename, "w") as member:
            member.write(source.read(last))
            for _ in range(1500):
                member.write(bytes(10**6))
    return made.getvalue()


# lines of text

STEPS: dict[str, Content] = {
    "steps after those kept": lambda data: data + b'{"iteration":9}\n{"iteration":10}\n',
    "a step that is no number": lambda data: b'{"iteration":"one"}\n' + data,
    "a step that is a list": lambda data: b'{"iteration":[]}\n' + data,
    "a step without a number": lambda data: b"{}\n" + data,
    "a step of infinity": lambda data: b'{"iteration":1e999}\n' + data,
    "a step of NaN": lambda data: b'{"iteration":NaN}\n' + data,
    "lines that are no objects": lambda data: b"[1]\n2\nnull\n" + data,
    "a line nested too deep": lambda data: b"[" * 60_000 + b"\n" + data,
    "a line in UTF-16": lambda data: '{"iteration":1}\n'.encode("utf-16") + data,
    "a torn last line": lambda data: data[:-5],
}
"""Of a log of steps."""

LINES: dict[str, Content] = {
    "zeros": lambda data: b"\0" * len(data),
    "a line of 5 MB": lambda data: b"a" * 5_000_000,
    "a million lines": lambda data: data * (10**6 // max(1, data.count(b"\n") + 1)),
    "not in UTF-8": lambda data: b"\xff\xfe\xfa\n" * 10,
    "lines twice": lambda data: data + b"\n" + data,
    "one line less": lambda data: data.rpartition(b"\n")[0],
    "numbers of 5,000 digits": lambda data: b"9" * 5000 + b"\n" + data,
    "negative numbers": lambda data: b"\n".join(b"-" + line for line in data.splitlines()),
    "digits of other scripts": lambda data: "٣\n²\n½\n".encode() + data,
    "empty lines": lambda data: data.replace(b"\n", b"\n\n\n"),
    "paths": lambda data: data.replace(b"a.png", b"../../../../etc/passwd"),
    "old line ends": lambda data: data.replace(b"\n", b"\r"),
}
