"""The text of docs/results.md."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Iterable

import numpy as np
from intervals import Interval, interval, paired
from pictures import is_learned
from record import find_temperature, is_ablation

from ctkd_mm.analysis.doctor.diagnose import diagnose

CONSTANT = ('kd-t1', 'kd-t2', 'kd-t4', 'kd-t8')
CONTROLS = {'ctkd-official': 'control-official', 'ctkd': 'control-ctkd'}
ALONE = 'student'
SAME_WEIGHT = 'kd-zscore', 'kd-weight'  # at T = 2 both, of other logits
# Beside those to the baselines: what docs/choose-a-temperature.md speaks of.
PAIRS = ('kd-t1', ALONE), ('kd-t4', 'kd-t1'), ('ctkd-dkd', 'dkd'), SAME_WEIGHT
BASE = 'ctkd'  # what the ablations change
Runs, Logs = dict, dict  # entries of runs.py; the seeds' compact logs; both by name

PAGE = Path(__file__).with_name('page.md')


def write_page(runs: Runs, logs: Logs) -> str:
    """Compute every figure and write the page.

    Args:
        runs: The entries of ``runs.py``.
        logs: Their compact logs, by name, in the order of the seeds.

    Returns:
        The page, Markdown.
    """
    constant = [*CONSTANT, *CONTROLS.values()]
    best = max(constant, key=lambda name: np.mean(maps(logs[name])))
    main = [name for name in runs if not is_ablation(name)]
    every = [log for of_run in logs.values() for log in of_run]
    ablations = [name for name in runs if is_ablation(name)]
    return PAGE.read_text(encoding='utf-8').format(
        answer=_answer(runs, logs, best),
        steps=every[0]['steps'][-1],
        teacher_map=_spelled({f'{t["bbox_mAP"]:.3f}' for t in _teachers(every)}),
        seeds=_spelled(str(log['seed']) for log in logs[best]),
        table=_table(runs, logs, best, main),
        num_seeds=len(logs[best]),
        best=runs[best]['title'],
        num_constant=len(constant),
        num_compared=len(main) - 1,
        weighted=runs[SAME_WEIGHT[1]]['title'],
        controls=_controls(runs, logs),
        num_ablation_seeds=len(logs[ablations[0]]),
        num_ablations=len(ablations),
        num_apart=sum(abs(g.mean) > g.half for g in _changes(logs, ablations)),
        base=runs[BASE]['title'],
        ablations=_ablations(runs, logs, ablations),
        hours=f'{sum(log["seconds"] for log in every) / 3600:.1f}',
        packages=_spelled(
            ' '.join(item) for log in every for item in log['packages'].items()
        ),
        teachers=_spelled(t['sha256'] for t in _teachers(every)),
    )


def maps(logs: list[dict]) -> list[float]:
    """The seeds' box mAP."""
    return [log['metrics']['bbox_mAP'] for log in logs]


def verdicts(logs: list[dict]) -> str:
    """The doctor's verdicts on the seeds, counted; a dash without a learned tau."""
    if not is_learned(logs):
        return '-'
    found = Counter(', '.join(_diagnose(log)) for log in logs)
    return '; '.join(f'{verdict} ({n})' for verdict, n in found.most_common())


def _table(runs: Runs, logs: Logs, best: str, names: list[str]) -> str:
    lines = [
        '| method | box mAP | AP50 | against KD | final tau | doctor |',
        '|---|---|---|---|---|---|',
    ]
    for name in names:
        difference = '-' if name == best else _signed(_gain(logs, name, best))
        ap50 = np.mean([log['metrics']['bbox_mAP_50'] for log in logs[name]])
        lines.append(
            f'| {runs[name]["title"]} | {_plain(interval(maps(logs[name])))} '
            f'| {ap50:.3f} | {difference} | {_final_tau(logs[name])} '
            f'| {verdicts(logs[name])} |'
        )
    return '\n'.join(lines)


def _answer(runs: Runs, logs: Logs, best: str) -> str:
    methods = [name for name in runs if not is_ablation(name)]
    others = [best, CONSTANT[0], ALONE, SAME_WEIGHT[0]]
    titles = [runs[name]['title'] for name in others]
    lines = [f'| against | {" | ".join(titles)} |', '|---' * (len(others) + 1) + '|']
    for name in (name for name in methods if is_learned(logs[name])):
        cells = ' | '.join(_judged(_gain(logs, name, other)) for other in others)
        lines.append(f'| **{runs[name]["title"]}** | {cells} |')
    halves = [_gain(logs, name, best).half for name in methods if name != best]
    lines += ['']
    for pair in PAIRS:
        title, other = (runs[name]['title'] for name in pair)
        lines.append(f'- *{title}* against *{other}*: {_judged(_gain(logs, *pair))}.')
    lines += [
        '',
        f'With {len(logs[best])} seeds half an interval has the median',
        f'{np.median(halves):.3f} in the table below: less than that is not seen.',
    ]
    return '\n'.join(lines)


def _controls(runs: Runs, logs: Logs) -> str:
    lines = ['| method | final tau | its control | difference |', '|---|---|---|---|']
    for name, control in CONTROLS.items():
        gain = _gain(logs, name, control)
        lines.append(
            f'| {runs[name]["title"]} | {_final_tau(logs[name])} '
            f'| {_plain(interval(maps(logs[control])))} '
            f'| {_judged(gain)} |'
        )
    return '\n'.join(lines)


def _ablations(runs: Runs, logs: Logs, names: list[str]) -> str:
    count = len(logs[names[0]])
    base = logs[BASE][:count]
    lines = [
        '| changed | box mAP | difference | final tau | doctor |',
        '|---|---|---|---|---|',
        f'| nothing | {_plain(interval(maps(base)))} | - | {_final_tau(base)} '
        f'| {verdicts(base)} |',
    ]
    for name, gain in zip(names, _changes(logs, names)):
        lines.append(
            f'| {runs[name]["title"]} | {_plain(interval(maps(logs[name])))} '
            f'| {_signed(gain)} | {_final_tau(logs[name])} | {verdicts(logs[name])} |'
        )
    return '\n'.join(lines)


def _changes(logs: Logs, names: list[str]) -> list[Interval]:
    base = maps(logs[BASE])
    return [paired(maps(logs[name]), base[: len(logs[name])]) for name in names]


def _gain(logs: Logs, name: str, other: str) -> Interval:
    return paired(maps(logs[name]), maps(logs[other]))


def _diagnose(log: dict) -> list[str]:
    bounds, curves = find_temperature(log['loss_kd']), log['curves']
    lines = [
        dict(zip(('step', 'epoch', *curves), values))
        for values in zip(log['steps'], log['epochs'], *curves.values())
    ]
    lines = [{k: v for k, v in line.items() if v is not None} for line in lines]
    found = diagnose(lines, bounds['tau_init'], bounds['tau_range'])
    return [finding.verdict for finding in found]


def _final_tau(logs: list[dict]) -> str:
    if 'tau' in logs[0]['curves']:
        taus = [log['curves']['tau'][-1] for log in logs]
    elif 'tau' in (logs[0]['loss_kd'] or {}):
        taus = [log['loss_kd']['tau'] for log in logs]
    else:
        return '-'
    return f'{np.mean(taus):.2f} ({min(taus):.2f} to {max(taus):.2f})'


def _judged(value: Interval) -> str:
    return f'{_signed(value)}: {value.verdict}'


def _plain(value: Interval) -> str:
    return f'{value.mean:.3f} ± {value.half:.3f}'


def _signed(value: Interval) -> str:
    return f'{value.mean:+.3f} ± {value.half:.3f}'


def _teachers(logs: list[dict]) -> list[dict]:
    return [log['teacher'] for log in logs if log['teacher']]


def _spelled(items: Iterable[str]) -> str:
    """Every different one, in the order found."""
    return ', '.join(dict.fromkeys(items))
