"""Full signatures and argument lists for layers that pass arguments on to their base classes."""

import inspect
import re
from inspect import Parameter
from typing import Any

_ARGS = re.compile(r"^Args:\n((?:    .*\n)+)", re.MULTILINE)
_ENTRY = re.compile(r"^    (?=\S)", re.MULTILINE)


def describe(cls: type, root: type, without: frozenset[str] = frozenset()) -> None:
    """Lists the arguments of `cls` and of its bases up to `root` in its signature and under `Args:`.

    `help(cls)`, Shift-Tab in a notebook and the API page then list every argument with its default and description.
    `without` names the arguments of base classes that `cls` does not accept.
    """
    bases = [base for base in cls.__mro__ if issubclass(base, root)]
    found: dict[str, Parameter] = {}
    by_position = True
    for base in bases:
        parameters = inspect.signature(vars(base)["__init__"]).parameters if "__init__" in vars(base) else {}
        for name, parameter in list(parameters.items())[1:]:
            if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD and not by_position:
                parameter = parameter.replace(kind=Parameter.KEYWORD_ONLY)
            if name not in without and parameter.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
                found.setdefault(name, parameter)
        if parameters:
            by_position &= any(p.kind is Parameter.VAR_POSITIONAL for p in parameters.values())
    others = Parameter("kwargs", Parameter.VAR_KEYWORD)
    signature = inspect.Signature([*sorted(found.values(), key=lambda p: p.kind), others])
    cls.__signature__ = _OfTheClass(signature)  # type: ignore[attr-defined]
    if cls.__doc__:
        entries = [entry for base in bases for entry in _entries(vars(base).get("__doc__") or "")]
        names = [f"**{name}" if name == "kwargs" else name for name in signature.parameters]
        lines = "".join(_entries_for(entries, names))
        cls.__doc__ = _ARGS.sub(lambda _: f"Args:\n{lines}", inspect.cleandoc(cls.__doc__), count=1)


class _OfTheClass:
    """An attribute of the class only. Calling a layer takes other arguments than calling its class."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is not None:
            raise AttributeError("__signature__")
        return self.value


def _entries(doc: str) -> list[tuple[list[str], str]]:
    """The names and the description of each entry under `Args:`."""
    block = _ARGS.search(inspect.cleandoc(doc) + "\n")
    entries = _ENTRY.split(block.group(1))[1:] if block else []
    split = (entry.partition(":")[::2] for entry in entries)
    return [(names.split(", "), text.rstrip()) for names, text in split]


def _entries_for(entries: list[tuple[list[str], str]], names: list[str]) -> list[str]:
    """The first entry for each name, in the order of `names`."""
    lines, left = [], set(names)
    for name in names:
        for about, text in entries:
            if name in about and name in left and not text.startswith(" see "):
                told = [other for other in about if other in left]
                lines.append(f"    {', '.join(told)}:{text}\n")
                left -= set(told)
                break
    return lines
