"""What the site changes in its sources, which read well without it.

As a hook of MkDocs: links out of ``docs/``, which work in a checkout, become the paths
that they lead to. As an extension of Griffe: Sphinx's roles in docstrings become links.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe

DOCS = Path(__file__).parent
LINK_OUT = re.compile(r'\[(`?)([^\]]*?)\1\]\(\.\./([^)#]+)\)')
ROLE = re.compile(r':(?:class|func|meth|mod):`([\w.]+)`')


def on_page_markdown(markdown: str, **others: Any) -> str:
    """Write paths in the place of links that leave the documentation."""
    return LINK_OUT.sub(_path, markdown)


def _path(link: re.Match) -> str:
    code, text, path = link.groups()
    if (DOCS / path).exists():  # from a folder of the documentation to another page
        return link.group()
    if code or text in (path, Path(path).stem):
        return f'`{path}`'
    return f'{text} (`{path}`)'


class Roles(griffe.Extension):
    """Turns Sphinx's roles into references, and ``Example:`` into ``Examples:``."""

    def on_package(self, *, pkg: griffe.Module, **others: Any) -> None:
        """Change every docstring of the package, all of whose names are known now."""
        _rewrite(pkg)


def _rewrite(obj: griffe.Object) -> None:
    if obj.docstring:
        text = ROLE.sub(lambda role: _reference(obj, role[1]), obj.docstring.value)
        obj.docstring.value = text.replace('\nExample:\n', '\nExamples:\n')
    if obj.is_subpackage:
        # The modules alone, in one order on every file system.
        own = (item for item in sorted(obj.members.items()) if not item[1].is_alias)
        obj.members = dict(own)
    for member in obj.members.values():
        if not member.is_alias:
            _rewrite(member)


def _reference(obj: griffe.Object, name: str) -> str:
    try:
        path = obj.resolve(name)
    except griffe.NameResolutionError:
        path = name  # a full one
    # Optional: what has no place on the site, as MMEngine's classes, stays plain.
    return f'<autoref identifier="{path}" optional><code>{name}</code></autoref>'
