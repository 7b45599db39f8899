"""Tells mkdocstrings how the docstrings of this package are written, where that differs from Google's style."""

import re

import griffe

LABEL = re.compile(r"^(Reference|Shapes|Input shape|Returns, raises): (.*(?:\n    .*)*)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Names the section of an example as Google does, and makes paragraphs of labelled lines."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring:
            obj.docstring.value = normalized(obj.docstring.value)


def normalized(docstring):
    """The docstring with `Examples:` for `Example:`, and each labelled line with its continuation as one paragraph."""
    docstring = re.sub(r"^Example:$", "Examples:", docstring, flags=re.MULTILINE)
    return LABEL.sub(lambda match: f"**{match[1]}:** " + re.sub(r"\n +", "\n", match[2]), docstring)
