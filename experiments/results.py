"""Rebuild docs/results.md and its pictures from the committed logs.

    python experiments/results.py

Every figure on the page is computed here from the logs in ``experiments/logs``; the
same logs give the same bytes.
"""

from __future__ import annotations

from pathlib import Path

from page import write_page
from pictures import draw_maps, draw_taus
from record import load_runs, log_path, read_log


def load_logs(runs: dict[str, dict]) -> dict[str, list[dict]]:
    """Read the logs of all runs, by name, in the order of their seeds.

    Args:
        runs: The entries of ``runs.py``.

    Returns:
        Compact logs, see :func:`record.write_log`.

    Raises:
        FileNotFoundError: If a run has no log, or one of another entry in ``runs.py``.
    """
    logs = {}
    for name, run in runs.items():
        logs[name] = [read_log(name, seed, runs) for seed in run['seeds']]
        for seed, log in zip(run['seeds'], logs[name]):
            if log is None:
                raise FileNotFoundError(
                    f'{log_path(name, seed)} is missing, or of another '
                    'entry in experiments/runs.py or another tau: run `make ledger`'
                )
    return logs


def rebuild(docs: Path = Path('docs')) -> None:
    """Write ``results.md`` and its pictures.

    Args:
        docs: The folder to write to.

    Raises:
        FileNotFoundError: If a run has no log.
    """
    runs = load_runs()
    logs = load_logs(runs)
    (docs / 'results.md').write_text(write_page(runs, logs), encoding='utf-8')
    draw_maps(runs, logs, docs / 'results_map.svg')
    draw_taus(runs, logs, docs / 'results_tau.svg')


if __name__ == '__main__':
    rebuild()
