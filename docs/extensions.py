"""Extensions of MkDocs for this documentation: formulas as MathML, links in docstrings.

Formulas are converted when the site is built, so that pages need no script and no font for them.
"""

import html
import re
from typing import Any

import griffe
from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

# Output of arithmatex: `\(...\)` for inline formulas, `\[...\]` for displayed ones.
_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)
# A cross-reference of a docstring: :class:`HMGRLModel` or :meth:`~trainer.HMGRLTrainer.train`.
_REFERENCE = re.compile(r":(?:class|func|meth|mod|data|attr):`~?([\w.]+)`")
_VARIADIC = (griffe.ParameterKind.var_positional, griffe.ParameterKind.var_keyword)
_PACKAGES = ("modeling_hmgrl", "dataset_scripts", "hmgrl")


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Replaces the formulas of a page by MathML; a hook of MkDocs.

    Args:
        content: The page as HTML.
        page: The page.

    Raises:
        PluginError: If a formula is invalid or contains an unknown command.
    """

    def set_formula(match: re.Match[str]) -> str:
        tex = html.unescape(match["tex"]).strip()
        try:
            formula = convert(tex, display="inline" if match["tag"] == "span" else "block")
        except Exception as error:  # latex2mathml raises errors of many types
            raise PluginError(
                f"{page.file.src_uri}: {tex!r} is not a valid formula ({error!r})"
            ) from error
        # as an operator, the name of a function would get space on both sides
        formula = re.sub(r"<mo>([A-Za-z]{2,})</mo>", r"<mi>\1</mi>", formula)
        if unknown := re.search(r"\\[a-zA-Z]+", formula):  # latex2mathml copies unknown commands
            raise PluginError(f"{page.file.src_uri}: {tex!r}: unknown command {unknown[0]}")
        if match["tag"] == "span":
            return formula
        return f'<div class="formula">{formula}</div>'

    return _FORMULA.sub(set_formula, content)


class Docstrings(griffe.Extension):
    """Turns cross-references of docstrings into links, documents fields by their annotations."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Processes a package after it was loaded; a hook of griffe."""
        self._visit(pkg)

    def _visit(self, part: Any) -> None:
        if part.is_alias:
            return
        if part.docstring is not None:
            part.docstring.value = _REFERENCE.sub(
                lambda match: _link(part, match[1]), part.docstring.value
            )
        for parameter in getattr(part, "parameters", ()):
            # griffe invents a default for *args and **kwargs.
            if parameter.kind in _VARIADIC:
                parameter.default = None
        if part.is_class and _is_configuration(part):
            part.set_member("__init__", _initializer(part))
        for member in part.members.values():
            self._visit(member)


def _is_configuration(part: griffe.Class) -> bool:
    """Whether `strict`, on the class or on a base, derives the initializer from the fields."""
    strict = any(str(made.value) == "strict" for made in part.decorators)
    return strict or any(str(base) == "ZeroShotTypingConfig" for base in part.bases)


def _initializer(part: griffe.Class) -> griffe.Function:
    """The initializer that `strict` derives from the fields; griffe supports only `dataclass`."""
    fields = [
        griffe.Parameter(
            attribute.name,
            annotation=attribute.annotation,
            kind=griffe.ParameterKind.keyword_only,
            default=attribute.value,
        )
        for attribute in part.attributes.values()
        if attribute.annotation is not None and "property" not in attribute.labels
    ]
    itself = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
    return griffe.Function("__init__", parameters=griffe.Parameters(itself, *fields))


def _link(part: Any, name: str) -> str:
    last = name.rsplit(".", 1)[-1]
    shown = name if name[0].isupper() else last  # with the class of a member
    for path in _paths(part, name):
        try:
            target = part.modules_collection[path]
        except KeyError:
            continue
        return f'<autoref identifier="{target.canonical_path}" optional>`{shown}`</autoref>'
    return f"`{shown}`"


def _paths(part: Any, name: str) -> list[str]:
    """Candidate paths of a name, relative to an object."""
    try:
        found = [part.resolve(name)]
    except griffe.NameResolutionError:
        found = []
    owner = part if part.is_class else part.parent
    if owner is not None:
        found.append(f"{owner.path}.{name}")
    return [*found, *(f"{package}.{name}" for package in _PACKAGES)]
