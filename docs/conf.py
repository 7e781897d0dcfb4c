"""How Sphinx builds the documentation: `make docs`."""

import inspect
import os
import re
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from sphinx.util.inspect import stringify_signature

import kerasnets

project = "kerasnets"
version = release = kerasnets.__version__
copyright = "the kerasnets developers, Apache License 2.0"  # the footer of each page
extensions = ["myst_parser", "sphinx.ext.apidoc", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "api/*/modules.rst"]
html_theme = "furo"
html_title = "kerasnets"
html_copy_source = False
myst_heading_anchors = 3
toc_object_entries_show_parents = "hide"

# One page per module: what a new module defines appears without an edit here.
PACKAGES = ("kerasnets", "serving", "demos")
apidoc_modules = [
    {
        "path": f"../{package}",
        "destination": f"api/{package}",
        "separate_modules": True,
        "module_first": True,
        "max_depth": 1,
        "automodule_options": {"members", "show-inheritance"},
    }
    for package in PACKAGES
]
autodoc_inherit_docstrings = False  # Keras's own text about `call` and `build` says nothing about our layers
autodoc_member_order = "bysource"

SECTION = re.compile(r"^(Args|Attributes|Call|Raises|Returns):\s*")
INLINE = re.compile(r"``?([^`]+)``?(\w?)|([*|\\`]|_\b)")


def to_restructured_text(app, what, name, obj, options, lines):
    """Convert a docstring, in place: `x` is code, indented blocks are shown as they are, sections become fields."""
    converted, block, item_indent = [], "", 0
    for line in lines:
        text, indent = line.strip(), len(line) - len(line.lstrip())
        if not text:
            block = block if block == "literal" else ""
            converted.append("")
        elif heading := SECTION.match(line):
            converted += [""] * (block != "section")
            block, item_indent = "section", 0 if line[heading.end() :] else -1
            converted.append(f":{heading[1]}: {to_inline(line[heading.end() :])}")
        elif indent and block == "section":
            # Below "Args:" alone, each line that is not indented further begins an item.
            item_indent = indent if item_indent < 0 else item_indent
            converted.append(("    * " if indent == item_indent else "      ") + to_inline(text))
        elif indent and block != "list":
            converted += ["", "::", ""] * (block != "literal")
            block = "literal"
            converted.append(f"    {line}")
        else:
            converted += [""] * (block in ("literal", "section"))
            block = "list" if text.startswith("* ") or (block == "list" and indent) else "text"
            converted.append(" " * indent + (f"* {to_inline(text[2:])}" if text.startswith("* ") else to_inline(text)))
    lines[:] = converted


def to_inline(text):
    """Escape the characters that have a meaning in reStructuredText but none in our docstrings."""

    def convert(match):
        code, letter, special = match.groups()
        if special:
            return f"\\{special}"
        return f"``{code}``\\ {letter}" if letter else f"``{code}``"

    return INLINE.sub(convert, text)


def constructor_signature(app, what, name, obj, options, signature, return_annotation):
    """Return the arguments of a layer's or model's `__init__`; Sphinx would show those of Keras's `__new__`."""
    if what == "class" and "__init__" in vars(obj) and signature == "(*args, **kwargs)":
        return stringify_signature(inspect.signature(obj.__init__.__get__(obj)), show_annotation=False), None
    return None


def is_left_out(app, what, name, obj, skip, options):
    """Whether to leave out a member: from a library, an undocumented method, or shown where its package exports it."""
    module = getattr(obj, "__module__", None) or ""
    if not inspect.isroutine(obj) and not inspect.isclass(obj):
        return None  # as Sphinx decides
    if module.partition(".")[0] not in PACKAGES or (what != "module" and not obj.__doc__):
        return True
    parents = [module.rsplit(".", depth)[0] for depth in range(1, module.count(".") + 1)]
    exporters = [parent for parent in parents if name in getattr(sys.modules.get(parent), "__all__", ())]
    return what == "module" and bool(exporters) and app.env.current_document.autodoc_module not in exporters


def setup(app):
    app.connect("autodoc-process-docstring", to_restructured_text)
    app.connect("autodoc-process-signature", constructor_signature)
    app.connect("autodoc-skip-member", is_left_out)
