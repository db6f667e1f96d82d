"""Check parsed JSON against type hints, strictly: `true` is no number, 3.7 no whole one, "3" neither.

typed([3, 7], tuple[int, ...], "labelled")       # (3, 7)
typed([3.7], tuple[int, ...], "labelled")        # ValueError: labelled[0]: expected a whole number, got 3.7
"""

from types import NoneType, UnionType
from typing import Any, Never, Union, get_args, get_origin

_PLAIN = {int: "a whole number", str: "text", bool: "true or false", float: "a number"}
_MOST = 2**63 - 1


def typed(value: Any, hint: Any, name: str) -> Any:
    """Return a parsed JSON value as `hint` says, lists as tuples.

    hint    int, float, bool, str, None, Any, a union with None, tuple[X, ...], tuple[X, Y], dict[str, X] of these
    name    what the value is called in the error

    Raises ValueError, in one line, where the value is of another type, a number does not fit into 64 bits, or text
    cannot be written as UTF-8.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        (some,) = (part for part in parts if part is not NoneType)
        return None if value is None else typed(value, some, name)
    if origin is tuple:
        return _tuple(value, parts, name)
    if origin is dict:
        if type(value) is not dict:
            _refuse(value, "an object", name)
        return {key: typed(each, parts[1], f"{name}.{key}") for key, each in value.items()}
    if type(value) not in ((int, float) if hint is float else (hint,)):
        _refuse(value, _PLAIN[hint], name)
    if type(value) is int and abs(value) > _MOST:
        raise ValueError(f"{name}: expected a number of 64 bits, got one of {len(str(abs(value)))} digits")
    if hint is str:
        _check_utf8(value, name)
    return value


def _tuple(value: Any, parts: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    if type(value) is not list:
        _refuse(value, "a list", name)
    if parts[-1] is not Ellipsis:
        if len(value) != len(parts):
            raise ValueError(f"{name}: expected a list of {len(parts)}, got one of {len(value)}")
        return tuple(typed(each, part, f"{name}[{i}]") for i, (each, part) in enumerate(zip(value, parts, strict=True)))
    items: list[Any] = value
    if parts[0] is int and set(map(type, items)) == {int} and max(max(items), -min(items)) <= _MOST:
        return tuple(items)  # millions of ids at once
    return tuple(typed(each, parts[0], f"{name}[{i}]") for i, each in enumerate(items))


def _check_utf8(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name}: expected text that UTF-8 can hold, got {text[:40]!a}") from None


def _refuse(value: Any, expected: str, name: str) -> Never:
    came = repr(value) if type(value) in (int, float, bool, str, NoneType) else f"a JSON {type(value).__name__}"
    raise ValueError(f"{name}: expected {expected}, got {came if len(came) <= 40 else came[:40] + '...'}")
