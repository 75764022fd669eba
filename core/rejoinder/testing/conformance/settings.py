"""The rules for settings: what `[plugins.NAME]` may say, and that the environment can say it, too."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from rejoinder.providers import Secret
from rejoinder.testing.conformance.rules import Violation

_KEY = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_SECRET_WORDS = frozenset(["key", "apikey", "token", "secret", "password", "passphrase", "credential", "credentials"])
_UNKNOWN = "surely_no_setting_is_called_so"
_FORMAT = msgspec.json.schema(Secret)["format"]


def check_settings(name: str, schema: Any) -> str:
    """Look at the struct of the settings of `name`; returns what was seen.

    Raises:
        Violation: it breaks one of the rules.
    """
    title = getattr(schema, "__name__", repr(schema))
    if not (isinstance(schema, type) and issubclass(schema, msgspec.Struct)):
        raise Violation(f"the settings are {title}, which is no msgspec Struct", "make them a `msgspec.Struct`")
    fields = msgspec.structs.fields(schema)
    _has_defaults(title, fields)
    defaults = _make_defaults(title, schema)
    _refuses_unknown(title, schema, defaults)
    properties = _properties(title, schema)
    for one in fields:
        key = one.encode_name
        if not _KEY.fullmatch(key):
            raise Violation(
                f"the setting {key!r} of {title} cannot be set by an environment variable",
                "call it in lower case, words joined by one underscore",
            )
        _converts(name, title, one, getattr(defaults, one.name))
        text = _text_schema(properties.get(key, {}))
        if text is not None and key.rpartition("_")[2] in _SECRET_WORDS and text.get("format") != _FORMAT:
            raise Violation(
                f"the setting {key!r} of {title} looks like a secret, but everybody is shown it",
                f"`from rejoinder.providers import Secret` and annotate it `{key}: Secret | None = None`",
            )
    return ", ".join(one.encode_name for one in fields) or "no settings"


def _has_defaults(title: str, fields: tuple[msgspec.structs.FieldInfo, ...]) -> None:
    missing = [one.encode_name for one in fields if one.required]
    if missing:
        raise Violation(
            f"{title} has settings without a default: {', '.join(missing)}",
            "give each a default (`None` for what the user must set, and raise ConfigError in `warm_up` if it is not): "
            "a plugin that is installed must be listed without being set up",
        )


def _make_defaults(title: str, schema: type[msgspec.Struct]) -> msgspec.Struct:
    try:
        return msgspec.convert({}, schema, strict=False)
    except msgspec.ValidationError as error:
        raise Violation(f"{title} cannot be made of its defaults: {error}", "correct the defaults") from None


def _refuses_unknown(title: str, schema: type[msgspec.Struct], defaults: msgspec.Struct) -> None:
    try:
        msgspec.convert({_UNKNOWN: 1}, schema, strict=False)
    except msgspec.ValidationError:
        return
    raise Violation(
        f"{title} takes keys it does not know: a misspelt setting would do nothing, silently",
        f"write `class {title}(msgspec.Struct, forbid_unknown_fields=True)`",
    )


def _properties(title: str, schema: type[msgspec.Struct]) -> dict[str, Any]:
    try:
        (top,), parts = msgspec.json.schema_components((schema,), ref_template="{name}")
    except TypeError as error:
        raise Violation(
            f"no JSON schema can be made of {title}: {error}", "use types that JSON has: str, int, float, bool, lists"
        ) from None
    whole = parts.get(top.get("$ref", ""), top)
    return dict(whole.get("properties", {}))


def _converts(name: str, title: str, one: msgspec.structs.FieldInfo, default: Any) -> None:
    """Its default, written as a string in the environment, must be read as the same value."""
    if not isinstance(default, str | int | float):
        return
    text = str(default).lower() if isinstance(default, bool) else str(default)
    try:
        found = msgspec.convert(text, one.type, strict=False)
    except msgspec.ValidationError as error:
        found = error
    if found != default:
        raise Violation(
            f"the setting {one.encode_name!r} of {title} is {default!r}, but REJOINDER_PLUGINS__{name.upper()}__"
            f"{one.encode_name.upper()}={text} gives {found!r}",
            f"annotate it so that its default fits its type: it is {one.type!r}",
        )


def _text_schema(schema: dict[str, Any]) -> dict[str, Any] | None:
    """The part of a field's schema that takes any text, if one does."""
    for part in schema.get("anyOf", [schema]):
        if isinstance(part, dict) and part.get("type") == "string" and "enum" not in part:
            return part
    return None
