"""Every setting of a process as a flat list: its value, unless it is or may hold a secret, and where it comes from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
from pydantic import BaseModel, SecretStr

from rejoinder.manager import settings_schema
from rejoinder.settings import Settings
from rejoinder.toolbox import from_text

Origin = Literal["flag", "env", "file", "panel", "default"]
Schemas = Mapping[str, Sequence[type[msgspec.Struct]]]
"""Of the sections `[plugins.NAME]`."""
_SECRET_NAME = re.compile(r"api_?key|secret|passw|credential|private_?key|(^|_)(token|pin|auth|authorization)$", re.I)
_SECRET_TEXT = re.compile(
    r"://[^@\s]*:[^@\s]*@"
    r"|[?&;][\w-]*(key|token|secret|passw|pwd|sig|credential)[\w-]*="
    r"|^([\w-]+:\s*)?(bearer|basic)\s+\S+$",
    re.I,
)
"""A URL with a password or something like it, or a header that lets one in."""


class Setting(msgspec.Struct):
    """A setting by its dotted key; of one that is `secret` there is no value."""

    key: str
    value: Any
    origin: Origin
    secret: bool
    description: str


def settings_list(settings: Settings, schemas: Schemas, sections: Mapping[str, Mapping[str, Any]]) -> list[Setting]:
    """All settings; `sections` are those of plugins as they are in effect."""
    found = list(_of_model(settings, settings, ()))
    for name in sorted({*schemas, *sections}):
        found += _of_section(settings, name, schemas.get(name, ()), sections.get(name, {}))
    return found


def origin_of(settings: Settings, path: Sequence[str]) -> Literal["flag", "env", "file", "default"]:
    """Where the value at `path` was given; `default` if nowhere."""
    for origin, layer in settings.layers:
        here: Any = layer
        for depth, part in enumerate(path):
            if not isinstance(here, Mapping):
                # A table in one piece, as text.
                return origin if depth else "default"
            if part not in here:
                break
            here = here[part]
        else:
            return origin
    return "default"


def _of_model(settings: Settings, model: BaseModel, place: tuple[str, ...]) -> Iterator[Setting]:
    # Only of the whole: a section may have a list of agents.
    plain = model.model_dump(mode="json", exclude=None if place else {"plugins", "agents"})
    for name, field in type(model).model_fields.items():
        value, path = getattr(model, name), (*place, name)
        if isinstance(value, BaseModel):
            yield from _of_model(settings, value, path)
        elif path == ("agents",):
            for agent, definition in value.items():
                yield from _of_model(settings, definition, ("agents", agent))
        elif path != ("plugins",):
            secret = isinstance(value, SecretStr) or bool(_SECRET_NAME.search(name)) or may_hold_secret(plain[name])
            shown = None if secret else plain[name]
            yield Setting(".".join(path), shown, origin_of(settings, path), secret, field.description or "")


def _of_section(
    settings: Settings, name: str, schemas: Iterable[type[msgspec.Struct]], section: Mapping[str, Any]
) -> Iterator[Setting]:
    schema = joint_schema(schemas)
    values = values_of(schemas, section)
    properties = schema.get("properties", {})
    for key in sorted({*values, *section}):
        origin: Origin = origin_of(settings, ("plugins", name, key))
        if origin == "default" and key in section:
            origin = "panel"
        # What nobody knows may be a secret.
        shown, secret = masked(values[key], properties[key], schema, key) if key in properties else (None, True)
        yield Setting(f"plugins.{name}.{key}", shown, origin, secret, properties.get(key, {}).get("description", ""))


# -- sections of plugins


def joint_schema(schemas: Iterable[type[msgspec.Struct]]) -> dict[str, Any]:
    """The JSON Schema of a section that the owners of `schemas` share; what is or may be secret is `writeOnly`."""
    joint: dict[str, Any] = {}
    for schema in schemas:
        own = settings_schema(schema)
        if not joint:
            joint = own
            continue
        for part in ("properties", "$defs"):
            if part in own:
                joint[part] = {**own[part], **joint.get(part, {})}
    for key, property in joint.get("properties", {}).items():
        if is_secret(property, key):
            property["writeOnly"] = True
            property.pop("default", None)
    return joint


def values_of(schemas: Iterable[type[msgspec.Struct]], section: Mapping[str, Any]) -> dict[str, Any]:
    """What is in effect of `section`, as JSON has it: what is given, else the defaults."""
    values: dict[str, Any] = {}
    for schema in schemas:
        given = from_text(section, schema)
        for field in msgspec.structs.fields(schema):
            try:
                key = field.encode_name
                values[key] = plain(_read(given[key], field.type) if key in given else _default(field))
            except Exception:  # noqa: BLE001 - a stranger's default; it is shown as nothing
                values[field.encode_name] = None
    return values


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default is not msgspec.NODEFAULT:
        return field.default
    return field.default_factory() if field.default_factory is not msgspec.NODEFAULT else None


def _read(value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError:
        return value


def plain(value: Any) -> Any:
    """`value` as JSON has it."""
    return msgspec.json.decode(msgspec.json.encode(value, enc_hook=str))


def is_secret(schema: Mapping[str, Any], key: str) -> bool:
    """Whether the setting called `key`, of that schema, is a secret as a whole."""
    choices = [schema, *schema.get("anyOf", ())]
    kinds = {one.get("type") for one in choices}
    named = bool(_SECRET_NAME.search(key)) and not kinds & {"integer", "number", "boolean"}
    return named or any(one.get("writeOnly") for one in choices)


def masked(value: Any, schema: Mapping[str, Any], whole: Mapping[str, Any], key: str = "") -> tuple[Any, bool]:
    """`value` without what is or may be secret in it, and whether it is so as a whole; `whole` has the `$defs`."""
    if is_secret(schema, key):
        return None, True
    if "$ref" in schema:
        found = whole.get("$defs", {}).get(str(schema["$ref"]).rpartition("/")[2])
        return masked(value, found, whole, key) if found is not None else _unknown(value)
    if value is None or isinstance(value, bool | int | float):
        return value, False
    choices = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    if choices:
        # What one of them hides is hidden.
        for choice in choices:
            shown, secret = masked(value, choice, whole, key)
            if secret or shown != value:
                return shown, secret
        return value, False
    if isinstance(value, dict):
        others = schema.get("additionalProperties")
        others = others if isinstance(others, Mapping) else {}
        inner = {
            name: masked(one, schema.get("properties", {}).get(name, others), whole, name)[0]
            for name, one in value.items()
        }
        return inner, False
    if isinstance(value, list):
        items = schema.get("items")
        return [masked(one, items if isinstance(items, Mapping) else {}, whole, key)[0] for one in value], False
    if isinstance(value, str) and (schema.get("type") == "string" or "enum" in schema):
        return (None, True) if may_hold_secret(value) else (value, False)
    return _unknown(value)


def _unknown(value: Any) -> tuple[Any, bool]:
    """Of what has no schema nothing is shown that could be a secret."""
    return (value, False) if value is None or isinstance(value, bool | int | float) else (None, True)


def may_hold_secret(value: Any) -> bool:
    """Whether a text in `value` looks like an address with a password, or the like."""
    if isinstance(value, str):
        return bool(_SECRET_TEXT.search(value))
    return isinstance(value, list) and any(map(may_hold_secret, value))
