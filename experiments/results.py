"""Rebuild docs/results.md and its pictures from the committed logs.

    python experiments/results.py

Every figure on the page is computed here from the logs in ``experiments/logs``; the
same logs give the same bytes.
"""

from __future__ import annotations

from pathlib import Path

from page import is_ready, write_page
from pictures import draw_epochs, draw_gains, draw_maps, draw_shares, draw_taus
from record import DataSet, load_sets


def load_logs(data: DataSet) -> dict[str, list[dict]]:
    """Read the logs of all runs of a set, by name, in the order of their seeds.

    Args:
        data: The set.

    Returns:
        Compact logs, see :meth:`record.DataSet.write_log`, of the runs that have one of
        every seed.
    """
    logs = {
        name: [data.read_log(name, seed) for seed in run['seeds']]
        for name, run in data.runs.items()
    }
    return {name: found for name, found in logs.items() if None not in found}


def rebuild(docs: Path = Path('docs')) -> None:
    """Write ``results.md`` and its pictures, of the runs that are complete.

    Args:
        docs: The folder to write to.
    """
    sets = load_sets()
    logs = {name: load_logs(data) for name, data in sets.items()}
    (docs / 'results.md').write_text(write_page(sets, logs), encoding='utf-8')
    for name, data in sets.items():
        if not is_ready(logs[name]):
            continue
        draw_maps(data, logs[name], docs / f'results_map_{name}.svg')
        draw_taus(data, logs[name], docs / f'results_tau_{name}.svg')
        if set(data.shown) & logs[name].keys():
            draw_epochs(data, logs[name], docs / f'results_epochs_{name}.svg')
            draw_shares(data, logs[name], docs / f'results_shares_{name}.svg')
            draw_gains(data, logs[name], docs / f'results_gains_{name}.svg')


if __name__ == '__main__':
    rebuild()
