"""The templates of a package, which lie with their CSS and JavaScript in its folder `templates`."""

from __future__ import annotations

from functools import cache, partial
from typing import Final

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ltxcore.pages.markdown import escaped

SHARED: Final = "ltxcore.pages"


@cache
def html(package: str) -> Environment:
    """Templates of HTML. Every value is escaped, and a name that nobody gives is an error.

    A template may extend or import those that all pages share. `asset(NAME)` gives a CSS or JavaScript file
    as it is: a page holds its own style and script, so that it opens from a disk.

    Args:
        package: whose folder `templates` holds them; a module gives its `__package__`.
    """
    environment = Environment(
        loader=_loader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    environment.globals["asset"] = partial(asset, package)
    return environment


@cache
def markdown(package: str) -> Environment:
    """Templates of Markdown. Every value is escaped, so that it reads as it is and marks up nothing."""
    return html(package).overlay(finalize=escaped)


@cache
def plain(package: str) -> Environment:
    """Templates of plain text, such as YAML. Nothing is escaped: a template quotes what needs it."""
    return html(package).overlay(autoescape=False)


def asset(package: str, name: str) -> Markup:
    """A CSS or JavaScript file of the package, or of those that all pages share."""
    # The project's own files, no stranger's text.
    return Markup(_loader(package).get_source(html(package), name)[0])  # noqa: S704


def _loader(package: str) -> ChoiceLoader:
    return ChoiceLoader([PackageLoader(package), PackageLoader(SHARED)])
