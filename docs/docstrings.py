"""Tells mkdocstrings how the docstrings of this package are written, where that differs from Google's style."""

import inspect
import re

import griffe

LABEL = re.compile(r"^(Reference|Shapes|Input shape|Returns, raises): (.*(?:\n    .*)*)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Names the section of an example as Google does, and makes paragraphs of labeled lines."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring:
            obj.docstring.value = normalized(obj.docstring.value)

    def on_package(self, *, pkg, **kwargs):
        """Shows the function and not the module, where a package exports a function with the name of its module."""
        for package in [pkg, *pkg.modules.values()]:
            for name, module in list(package.modules.items()):
                if name in module.functions:
                    package.set_member(name, module.functions[name])

    def on_class_members(self, *, node, cls, **kwargs):
        """Shows the full signature of a class, inherited arguments included."""
        runtime = getattr(node, "obj", None)
        if isinstance(runtime, type) and "__signature__" in vars(runtime):
            found = inspect.signature(runtime).parameters.values()
            parameters = [
                griffe.Parameter(p.name, kind=griffe.ParameterKind[p.kind.name.lower()], default=default_of(p))
                for p in found
            ]
            cls.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(*parameters)))


def default_of(parameter):
    """What a signature shows after the equals sign."""
    return None if parameter.default is inspect.Parameter.empty else repr(parameter.default)


def normalized(docstring):
    """The docstring with `Examples:` for `Example:`, and each labeled line with its continuation as one paragraph."""
    docstring = re.sub(r"^Example:$", "Examples:", docstring, flags=re.MULTILINE)
    return LABEL.sub(lambda match: f"**{match[1]}:** " + re.sub(r"\n +", "\n", match[2]), docstring)
