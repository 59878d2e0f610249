"""Writes the lists of names in api/index.md from the package and its docstrings.

python docs/api_table.py
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

from mmengine.registry import Registry

import ctkd_mm
from ctkd_mm import registry

API = Path(__file__).resolve().parent / 'api'
BEGIN, END = '<!-- written by docs/api_table.py: begin -->', '<!-- end -->'
ROLE = re.compile(r':\w+:`([\w.]+)`')


def faces() -> Iterator[tuple[str, object]]:
    """Give every name that a package of ours, or a registry, shows, and its object."""
    yield from ((name, getattr(ctkd_mm, name)) for name in ctkd_mm.__all__)
    for found in pkgutil.walk_packages(ctkd_mm.__path__, 'ctkd_mm.'):
        if found.ispkg:
            package = importlib.import_module(found.name)
            for name in getattr(package, '__all__', ()):
                yield name, getattr(package, name)
    for value in vars(registry).values():
        if isinstance(value, Registry) and value.scope == 'ctkd_mm':
            value.import_from_location()
            yield from value.module_dict.items()


def public_names() -> dict[str, object]:
    """Map every public name to its object, in alphabetical order."""
    return dict(sorted(faces(), key=lambda item: item[0].lower()))


def shown() -> dict[str, list[str]]:
    """Map every page of the reference to the packages and modules that it shows."""
    pages = {path.stem: path.read_text() for path in sorted(API.glob('*.md'))}
    return {
        page: re.findall(r'^::: (ctkd_mm\.[\w.]+)$', text, re.M)
        for page, text in pages.items()
    }


def page_of(module: str) -> str:
    """Find the page that shows a module.

    Raises:
        ValueError: If none does, or several.
    """
    found = [
        page
        for page, names in shown().items()
        for name in names
        if f'{module}.'.startswith(f'{name}.')
    ]
    if len(found) != 1:
        raise ValueError(f'{module} is on the pages {found} of docs/api, wanted one')
    return found[0]


def tables() -> str:
    """A table for each page: its names, and the first line of their docstrings."""
    rows: dict[str, list[str]] = {page: [] for page in shown()}
    for name, item in public_names().items():
        page = page_of(item.__module__)
        link = f'[{name}]({page}.md#{item.__module__}.{name})'
        line = ROLE.sub(r'`\1`', item.__doc__.strip().splitlines()[0])
        rows[page].append(f'| {link} | {line} |')
    lines = [BEGIN]
    for page in filter(rows.get, rows):
        title = (API / f'{page}.md').read_text().splitlines()[0].lstrip('# ')
        lines += ['', f'## {title}', '', '| | |', '|---|---|', *rows[page]]
    return '\n'.join([*lines, '', END])


def with_tables(index: str) -> str:
    """Return the front page of the reference with today's names."""
    before, rest = index.split(BEGIN)
    return before + tables() + rest.split(END, 1)[1]


if __name__ == '__main__':
    path = API / 'index.md'
    path.write_text(with_tables(path.read_text()))
