"""A JSON Schema as nested closures: the verdict of ``jsonschema`` on the result schema at a tenth of its time.

Only the keywords that ``result.schema.json`` uses are known; any other is an error when compiling. It says yes or no;
where it says no, ``jsonschema`` says why.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Check = Callable[[Any], bool]

ANNOTATIONS = {"$schema", "$id", "$defs", "title", "description"}


def compile_schema(schema: dict[str, Any]) -> Check:
    """A function that says whether a JSON value satisfies a schema (Draft 2020-12, local ``$ref`` only).

    Raises:
        ValueError: the schema has a keyword that is not known here.
    """
    return _Compiler(schema).check(schema)


class _Compiler:
    def __init__(self, root: dict[str, Any]) -> None:
        self.root = root
        self.known: dict[str, Check] = {}

    def check(self, schema: Any) -> Check:
        if isinstance(schema, bool):
            return lambda value: schema
        rest = {name: part for name, part in schema.items() if name not in ANNOTATIONS}
        own = {name for name in rest if name in _OBJECT}
        found = [self._object({name: rest[name] for name in own})] if own else []
        for name, part in rest.items():
            if name in own:
                continue
            if name == "$ref":
                found.append(self._reference(part))
            elif name == "anyOf":
                found.append(_any([self.check(one) for one in part]))
            elif name == "items":
                found.append(_items(self.check(part), len(rest.get("prefixItems", []))))
            elif name == "prefixItems":
                found.append(_prefix([self.check(one) for one in part]))
            elif name in _SIMPLE:
                found.append(_SIMPLE[name](part))
            else:
                raise ValueError(f"keyword {name!r} of the schema is not known to the compiled check")
        return _all(found)

    def _reference(self, address: str) -> Check:
        if not address.startswith("#/"):
            raise ValueError(f"$ref {address!r} is not local")
        if address not in self.known:
            part: Any = self.root
            for step in address[2:].split("/"):
                part = part[step]
            self.known[address] = lambda value: self.known[f"{address} "](value)  # a schema may refer to itself
            self.known[f"{address} "] = self.known[address] = self.check(part)
        return self.known[address]

    def _object(self, parts: dict[str, Any]) -> Check:
        required = parts.get("required", [])
        properties = {name: self.check(part) for name, part in parts.get("properties", {}).items()}
        others = self.check(parts.get("additionalProperties", True))
        names = self.check(parts["propertyNames"]) if "propertyNames" in parts else None
        low, high = parts.get("minProperties", 0), parts.get("maxProperties", float("inf"))

        def holds(value: Any) -> bool:
            if not isinstance(value, dict):
                return True
            return (
                low <= len(value) <= high
                and all(name in value for name in required)
                and (names is None or all(map(names, value)))
                and all(properties.get(name, others)(part) for name, part in value.items())
            )

        return holds


_OBJECT = {"properties", "required", "additionalProperties", "propertyNames", "minProperties", "maxProperties"}


def _all(found: list[Check]) -> Check:
    if len(found) == 1:
        return found[0]
    return lambda value: all(one(value) for one in found)


def _any(found: list[Check]) -> Check:
    return lambda value: any(one(value) for one in found)


def _items(one: Check, start: int) -> Check:
    return lambda value: not isinstance(value, list) or all(map(one, value[start:] if start else value))


def _prefix(own: list[Check]) -> Check:
    return lambda value: not isinstance(value, list) or all(one(part) for one, part in zip(own, value, strict=False))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TYPES: dict[str, Check] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": _number,
    "integer": lambda value: _number(value) and (isinstance(value, int) or value.is_integer()),
}


def _type(wanted: str | list[str]) -> Check:
    return _TYPES[wanted] if isinstance(wanted, str) else _any([_TYPES[name] for name in wanted])


def _equal(a: Any, b: Any) -> bool:
    """Equality of JSON: ``1`` is ``1.0`` but not ``true``."""
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def _enum(members: list[Any]) -> Check:
    if any(isinstance(member, dict | list) for member in members):
        raise ValueError("const and enum of the schema may hold plain values only")
    return lambda value: any(_equal(value, member) for member in members)


def _pattern(text: str) -> Check:
    search = re.compile(text).search
    return lambda value: not isinstance(value, str) or search(value) is not None


_SIMPLE: dict[str, Callable[[Any], Check]] = {
    "type": _type,
    "const": lambda member: _enum([member]),
    "enum": _enum,
    "pattern": _pattern,
    "minLength": lambda bound: lambda value: not isinstance(value, str) or len(value) >= bound,
    "maxLength": lambda bound: lambda value: not isinstance(value, str) or len(value) <= bound,
    "minItems": lambda bound: lambda value: not isinstance(value, list) or len(value) >= bound,
    "maxItems": lambda bound: lambda value: not isinstance(value, list) or len(value) <= bound,
    "minimum": lambda bound: lambda value: not _number(value) or value >= bound,
    "maximum": lambda bound: lambda value: not _number(value) or value <= bound,
    "exclusiveMinimum": lambda bound: lambda value: not _number(value) or value > bound,
    "exclusiveMaximum": lambda bound: lambda value: not _number(value) or value < bound,
}
