"""Reading a tool's parameter schema: JSON Schema as tool schemas use it, and BFCL's dialect."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pivotrl_jax.trajectories.parsing import tool_name

_MAX_REFERENCES = 8
# BFCL, Java and Python names of JSON types; any other name allows every value.
_TYPES = {
    "object": "object", "dict": "object", "hashmap": "object",
    "array": "array", "list": "array", "tuple": "array", "arraylist": "array",
    "string": "string", "str": "string", "char": "string",
    "number": "number", "float": "number", "double": "number",
    "integer": "integer", "int": "integer", "long": "integer",
    "boolean": "boolean", "bool": "boolean",
    "null": "null", "none": "null",
}  # fmt: skip
_PYTHON_TYPES = {
    "object": dict, "array": list, "string": str, "number": int | float, "boolean": bool,
    "null": type(None),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Schema:
    """One node of a schema with its references resolved; `{}` allows everything."""

    rules: Mapping[str, Any]
    root: Mapping[str, Any]

    def child(self, node: Any) -> "Schema":
        """The schema `node`, whose local references are looked up in this one's root."""
        for _ in range(_MAX_REFERENCES):
            if not isinstance(node, Mapping) or not isinstance(node.get("$ref"), str):
                break
            rest = {key: value for key, value in node.items() if key != "$ref"}
            target = self._target(node["$ref"])
            node = {**target, **rest} if isinstance(target, Mapping) else rest
        return Schema(node if isinstance(node, Mapping) else {}, self.root)

    def _target(self, reference: str) -> Any:
        node: Any = self.root
        for key in filter(None, reference.removeprefix("#").split("/")):
            node = node.get(key) if isinstance(node, Mapping) else None
        return node

    def mapping(self, key: str) -> Mapping[str, Any]:
        value = self.rules.get(key)
        return value if isinstance(value, Mapping) else {}

    def sequence(self, key: str) -> list[Any]:
        value = self.rules.get(key)
        return value if isinstance(value, list) else []

    @property
    def types(self) -> frozenset[str]:
        """The JSON types that it allows; empty means all."""
        stated = self.rules.get("type")
        names = stated if isinstance(stated, list) else [stated]
        types = [_TYPES.get(name.casefold()) for name in names if isinstance(name, str)]
        if None in types:
            return frozenset()
        return frozenset(filter(None, types)) | (
            {"null"} if self._marked_nullable(types) else set()
        )

    def _marked_nullable(self, types: list) -> bool:
        return bool(types) and self.rules.get("nullable") is True

    @property
    def required(self) -> frozenset[str]:
        return frozenset(name for name in self.sequence("required") if isinstance(name, str))

    @property
    def items(self) -> "Schema":
        return self.child(self.rules.get("items"))

    @property
    def unordered(self) -> bool:
        """An array whose order has no meaning: its items are unique or words of a fixed list."""
        return self.rules.get("uniqueItems") is True or "enum" in self.items.rules

    def member(self, name: str) -> "Schema":
        extra = self.rules.get("additionalProperties")
        return self.child(self.mapping("properties").get(name, extra))

    def alternative(self, value: Any) -> "Schema":
        """The first branch of anyOf or oneOf whose type `value` has, else this schema."""
        for node in self.sequence("anyOf") + self.sequence("oneOf"):
            if has_type(value, self.child(node).types):
                return self.child(node)
        return self

    @property
    def admits_null(self) -> bool:
        branches = self.sequence("anyOf") + self.sequence("oneOf")
        return "null" in self.types or any("null" in self.child(node).types for node in branches)


ANYTHING = Schema({}, {})


def has_type(value: Any, types: frozenset[str]) -> bool:
    """Whether `value` has one of the JSON types `types`, or there are none; true is no number."""
    if not types or ("integer" in types and _is_integer(value)):
        return True
    if isinstance(value, bool):
        return "boolean" in types
    return any(isinstance(value, _PYTHON_TYPES[name]) for name in types - {"integer", "boolean"})


def _is_integer(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def parameters(tools: tuple[dict[str, Any], ...], name: str) -> Schema:
    """The parameter schema of the tool called `name`, or one that allows everything."""
    for tool in tools:
        if tool_name(tool) == name:
            node = tool.get("function", tool).get("parameters")
            root = node if isinstance(node, Mapping) else {}
            return Schema(root, root)
    return ANYTHING
