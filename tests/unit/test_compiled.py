"""The compiled schema check says what jsonschema says, on good results and on thousands of spoilt ones."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from made_board import made_result

from ddbench.leaderboard.compiled import compile_schema
from ddbench.leaderboard.schema import _schema

ODD = (None, True, False, 0, 1, -1, 1.0, 1.5, 1e301, 2**60, "", "a", "A b", "hard", "x" * 400, "0" * 16, "a\n")
ODD += ("https://example.org/a", "javascript:x", "\u202e", [], [1], [[0, None, None]], {}, {"a": 1}, {"": {}})


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of every part of a JSON value."""
    found = [path]
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        found += places(part, (*path, name))
    return found


def spoil(draw: random.Random, value: dict[str, Any], where: list[tuple[Any, ...]]) -> Any:
    """A copy with one part replaced, removed, added or renamed."""
    changed = copy.deepcopy(value)
    path = draw.choice(where[1:])
    holder = changed
    for step in path[:-1]:
        holder = holder[step]
    kind = draw.randrange(4)
    if kind == 0 and isinstance(holder, dict):
        del holder[path[-1]]
    elif kind == 1 and isinstance(holder, dict):
        holder[draw.choice(("extra", "X y", "0", "accuracy", "a" * 200))] = draw.choice(ODD)
    elif kind == 2 and isinstance(holder, list):
        holder.append(draw.choice((*ODD, holder[0])))
    else:
        holder[path[-1]] = draw.choice(ODD)
    return changed


@pytest.mark.parametrize("rich", [True, False])
def test_agrees_with_jsonschema(rich: bool) -> None:
    check, oracle = compile_schema(_schema()), Draft202012Validator(_schema())
    good = made_result(rich=rich, names=("mlp-d3-w128",), seeds=2).to_json()
    assert check(good)
    draw, where = random.Random(0), places(good)
    verdicts = {True: 0, False: 0}
    for _ in range(600):
        spoilt = spoil(draw, good, where)
        expected = oracle.is_valid(spoilt)
        assert check(spoilt) == expected, spoilt
        verdicts[expected] += 1
    assert min(verdicts.values()) > 50, verdicts
    for value in ODD:
        assert check(value) == oracle.is_valid(value)


SMALL: list[tuple[Any, list[Any]]] = [
    ({"type": "integer"}, [1, 1.0, 1.5, True, "1"]),
    ({"type": ["string", "null"]}, ["", None, 0]),
    ({"const": 1}, [1, 1.0, True, 2]),
    ({"enum": ["a", 0]}, ["a", 0, False, "b"]),
    ({"exclusiveMinimum": 0, "maximum": 2}, [0, 1, 2, 3, "x", True]),
    ({"minLength": 1, "pattern": "^a$"}, ["", "a", "ab", 3]),
    ({"items": {"type": "null"}, "prefixItems": [{"type": "integer"}]}, [[], [1], [1, None], [1, 2], [None], {}]),
    ({"minItems": 1, "maxItems": 2}, [[], [1], [1, 2, 3], "abc"]),
    ({"required": ["a"], "maxProperties": 1, "propertyNames": {"maxLength": 1}}, [{}, {"a": 1}, {"a": 1, "b": 2}, []]),
    ({"additionalProperties": False, "properties": {"a": True}}, [{}, {"a": 1}, {"b": 1}]),
    ({"anyOf": [{"type": "null"}, {"$ref": "#/$defs/x"}], "$defs": {"x": {"const": "q"}}}, [None, "q", "r"]),
    (
        {"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}},
        [[], [[]], [[1]], 1],
    ),
]


@pytest.mark.parametrize(("schema", "values"), SMALL)
def test_every_keyword(schema: Any, values: list[Any]) -> None:
    check, oracle = compile_schema(schema), Draft202012Validator(schema)
    assert [check(value) for value in values] == [oracle.is_valid(value) for value in values]


def test_an_unknown_keyword_is_an_error_not_a_pass() -> None:
    with pytest.raises(ValueError, match="multipleOf"):
        compile_schema({"properties": {"a": {"multipleOf": 2}}})
