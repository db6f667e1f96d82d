"""Map the values of nested dicts, lists and tuples, as a state to be saved consists of."""

from collections.abc import Callable
from typing import Any


def map_nested(value: Any, change: Callable[[Any, str], Any], key: str = "state") -> Any:
    """Copy the containers of `value`, with `change(value, key)` for each value in them.

    map_nested({"w": [1, tensor]}, lambda value, key: 0 if value is tensor else value)  # {"w": [1, 0]}

    key  dotted path of a value, such as "state.w.1"

    A container that `change` returns as it came is copied and its values are mapped; one that it replaces is not
    mapped further.
    """
    made = change(value, key)
    if made is not value:
        return made
    if isinstance(value, dict):
        return {name: map_nested(held, change, f"{key}.{name}") for name, held in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([map_nested(held, change, f"{key}.{index}") for index, held in enumerate(value)])
    return value
