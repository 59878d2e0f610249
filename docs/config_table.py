"""Writes the tables of methods.md and OpenMMLab's metafiles from the configs.

python docs/config_table.py
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs'
PAGE = ROOT / 'docs' / 'methods.md'
# The papers of the folders that have a metafile, which mim reads.
PAPERS = {
    'ctkd': ('CTKD', 'Curriculum Temperature for Knowledge Distillation', '2211.16231'),
    'dkd': ('DKD', 'Decoupled Knowledge Distillation', '2203.08679'),
    'kd': ('KD', 'Distilling the Knowledge in a Neural Network', '1503.02531'),
    'ld': ('LD', 'Localization Distillation for Dense Object Detection', '2102.12252'),
}
BEGIN, END = '<!-- written by docs/config_table.py: begin -->', '<!-- end -->'


def opening_comment(path: Path) -> str:
    """Join the comment lines that a config starts with."""
    lines = path.read_text().splitlines()
    comment = []
    for line in lines:
        if not line.startswith('# '):
            break
        comment.append(line[2:])
    return ' '.join(comment)


def leaves() -> list[tuple[str, str, Path]]:
    """List (pair, method, leaf) of every config that distils on a real data set."""
    found = []
    for leaf in sorted(CONFIGS.glob('*/*.py')):
        bases = dict(re.findall(r'_base_/(pairs|methods)/(.+)\.py', leaf.read_text()))
        if 'pairs' in bases and leaf.parent.name != 'demo':
            method = bases.get('methods', leaf.name.split('_')[0])
            found.append((bases['pairs'], method, leaf))
    return found


def link(text: str, path: Path) -> str:
    return f'[{text}](../{path.relative_to(ROOT).as_posix()})'


def method_table() -> list[str]:
    """One line for each method: its name and what its file says it does."""
    rows = ['| method | what it does |', '|---|---|']
    for path in sorted(CONFIGS.glob('_base_/methods/*.py'), key=lambda p: p.stem):
        sentence = re.match(r'.*?\.(?= |$)|.*', opening_comment(path)).group()
        rows.append(f'| {link(path.stem, path)} | {sentence} |')
    return rows


def pair_table() -> list[str]:
    """One line for each pair: its teacher and the methods that have a config."""
    rows = ['| pair | teacher | configs |', '|---|---|---|']
    found = leaves()
    for pair in sorted({pair for pair, _, _ in found}):
        path = CONFIGS / '_base_' / 'pairs' / f'{pair}.py'
        teacher = re.search(r'Teacher: (.*?)\.(?= |$)', opening_comment(path)).group(1)
        methods = sorted((method, leaf) for name, method, leaf in found if name == pair)
        configs = '<br>'.join(link(method, leaf) for method, leaf in methods)
        rows.append(f'| {link(pair, path)} | {teacher} | {configs} |')
    return rows


def tables() -> str:
    return '\n'.join([BEGIN, '', *pair_table(), '', *method_table(), '', END])


def metafile(folder: str) -> str:
    """The metafile of a folder: its configs, without weights or results."""
    name, title, paper = PAPERS[folder]
    lines = ['# Written by docs/config_table.py', 'Collections:', f'  - Name: {name}']
    lines += ['    Paper:', f'      Title: {title}']
    lines += [f'      URL: https://arxiv.org/abs/{paper}', 'Models:']
    for path in sorted((CONFIGS / folder).glob('*.py')):
        lines += [f'  - Name: {path.stem}', f'    In Collection: {name}']
        lines += [f'    Config: {path.relative_to(ROOT).as_posix()}']
    return '\n'.join([*lines, ''])


def with_tables(page: str) -> str:
    """Return a page whose tables are those of the configs."""
    before, rest = page.split(BEGIN)
    return before + tables() + rest.split(END, 1)[1]


if __name__ == '__main__':
    PAGE.write_text(with_tables(PAGE.read_text()))
    for folder in PAPERS:
        (CONFIGS / folder / 'metafile.yml').write_text(metafile(folder))
