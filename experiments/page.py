"""The text of docs/results.md."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Iterable

import numpy as np
from intervals import Interval, detectable, holm, interval, verdict
from pictures import gain_over, is_learned, maps, share_of_loss
from record import DataSet, find_constant, find_temperature
from scipy.stats import spearmanr

from ctkd_mm.analysis.doctor.diagnose import diagnose

CONSTANT = ('kd-t1', 'kd-t2', 'kd-t4', 'kd-t8', 'control-official', 'control-ctkd')
ALONE, BEST = 'student', 'best'
Logs = dict  # the seeds' compact logs, by the name of the run

FRAME = Path(__file__).with_name('page.md')


def write_page(sets: dict[str, DataSet], logs: dict[str, Logs]) -> str:
    """Compute every figure and write the page.

    Args:
        sets: The sets, by name.
        logs: The compact logs of each set, by run, in the order of the seeds.

    Returns:
        The page, Markdown.
    """
    every = [log for of in logs.values() for seeds in of.values() for log in seeds]
    return FRAME.read_text(encoding='utf-8').format(
        sections='\n'.join(
            _section(sets[name], logs[name]) for name in sets if is_ready(logs[name])
        ),
        hours=f'{sum(log["seconds"] for log in every) / 3600:.1f}',
        packages=_spelled(
            ' '.join(item) for log in every for item in log['packages'].items()
        ),
        teachers=_spelled(log['teacher']['sha256'] for log in every if log['teacher']),
    )


def _section(data: DataSet, logs: Logs) -> str:
    """Fill the text of a set, ``sets/NAME.md``."""
    main = [name for name in logs if not data.changes(name)]
    constant = [name for name in CONSTANT if name in logs]
    best = max(constant, key=lambda name: np.mean(maps(logs[name])))
    pairs = [(name, ALONE) for name in main if name != ALONE]
    pairs += [
        (a, best if b == BEST else b)
        for a, b in data.comparisons
        if a in logs and (b == BEST or b in logs)
    ]
    pairs = list(dict.fromkeys(pairs))  # the best constant may be a control
    waiting = [run['title'] for name, run in data.runs.items() if name not in logs]
    judged = _judge(logs, pairs)
    halves = [detectable(gain, len(logs[best])) for gain, _ in judged.values()]
    teachers = [log['teacher'] for log in logs[best]]
    text = FRAME.parent / 'sets' / f'{data.name}.md'
    return text.read_text(encoding='utf-8').format(
        title=data.title,
        steps=logs[ALONE][0]['steps'][-1],
        teacher_map=_spelled(f'{teacher["bbox_mAP"]:.3f}' for teacher in teachers),
        seeds=_spelled(str(log['seed']) for log in logs[ALONE]),
        num_seeds=len(logs[ALONE]),
        best=data.runs[best]['title'],
        methods=_methods(data, logs, main, judged),
        comparisons=_comparisons(data, judged, [p for p in pairs if p[1] != ALONE]),
        num_compared=len(pairs),
        detectable=f'{np.median(halves):.3f}',
        waiting=f'Not run yet: {", ".join(waiting)}.' if waiting else '',
        num_distilled=len(logs) - 1,
        **_ranks(logs),
        **{kind: _changes(data, logs, kind) for kind in data.kinds()},
    )


def is_ready(logs: Logs) -> bool:
    """Whether a set has what every comparison needs: the student, and a constant."""
    return ALONE in logs and any(name in logs for name in CONSTANT)


def verdicts(logs: list[dict]) -> str:
    """The doctor's verdicts on the seeds, counted; a dash without a learned tau."""
    if not is_learned(logs):
        return '-'
    found = Counter(', '.join(_diagnose(log)) for log in logs)
    return '; '.join(f'{verdict} ({n})' for verdict, n in found.most_common())


def _judge(logs: Logs, pairs: list[tuple[str, str]]) -> dict[tuple, tuple]:
    """Differences of pairs, as a family, with Holm's verdicts."""
    gains = {(a, b): gain_over(logs[a], logs[b]) for a, b in pairs}
    adjusted = holm([gain.p_value for gain in gains.values()])
    return {
        pair: (gain, verdict(gain, p))
        for (pair, gain), p in zip(gains.items(), adjusted)
    }


def _methods(data: DataSet, logs: Logs, names: list[str], judged: dict) -> str:
    lines = [
        '| method | box mAP | AP50 | against the student alone | final tau '
        '| share of loss | doctor |',
        '|---|---|---|---|---|---|---|',
    ]
    for name in names:
        ap50 = np.mean([log['metrics']['bbox_mAP_50'] for log in logs[name]])
        gain = _told(*judged[name, ALONE]) if name != ALONE else '-'
        lines.append(
            f'| {data.runs[name]["title"]} | {_plain(interval(maps(logs[name])))} '
            f'| {ap50:.3f} | {gain} | {_final_tau(logs[name])} '
            f'| {_percent(share_of_loss(logs[name]))} | {verdicts(logs[name])} |'
        )
    return '\n'.join(lines)


def _comparisons(data: DataSet, judged: dict, pairs: list[tuple[str, str]]) -> str:
    lines = ['| method | against | difference |', '|---|---|---|']
    for pair in pairs:
        titles = ' | '.join(data.runs[name]['title'] for name in pair)
        lines.append(f'| {titles} | {_told(*judged[pair])} |')
    return '\n'.join(lines)


def _changes(data: DataSet, logs: Logs, kind: str) -> str:
    """Runs that change one thing in another run, with the same seeds of that."""
    names = [name for name in logs if data.changes(name) == kind]
    if not names:
        return ''
    pairs = [(name, data.runs[name]['base']) for name in names]
    pairs += [(name, ALONE) for name in names]
    judged = _judge(logs, pairs)
    lines = [
        '| changed | in | box mAP | difference | against the student alone '
        '| final tau | share of loss | doctor |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for name in names:
        run, base = data.runs[name], data.runs[name]['base']
        lines.append(
            f'| {run["title"]} | {data.runs[base]["title"]} '
            f'| {_plain(interval(maps(logs[name])))} | {_told(*judged[name, base])} '
            f'| {_told(*judged[name, ALONE])} | {_final_tau(logs[name])} '
            f'| {_percent(share_of_loss(logs[name]))} | {verdicts(logs[name])} |'
        )
    return '\n'.join(lines)


def _diagnose(log: dict) -> list[str]:
    bounds, curves = find_temperature(log['loss_kd']), log['curves']
    lines = [
        dict(zip(('step', 'epoch', *curves), values))
        for values in zip(log['steps'], log['epochs'], *curves.values())
    ]
    lines = [{k: v for k, v in line.items() if v is not None} for line in lines]
    found = diagnose(lines, bounds['tau_init'], bounds['tau_range'])
    return [finding.verdict for finding in found]


def _final_taus(logs: list[dict]) -> list[float]:
    if 'tau' in logs[0]['curves']:
        return [log['curves']['tau'][-1] for log in logs]
    if logs[0]['loss_kd'] and 'tau' in find_constant(logs[0]['loss_kd']):
        return [find_constant(log['loss_kd'])['tau'] for log in logs]
    return []


def _final_tau(logs: list[dict]) -> str:
    taus = _final_taus(logs)
    if not taus:
        return '-'
    return f'{np.mean(taus):.2f} ({min(taus):.2f} to {max(taus):.2f})'


def _ranks(logs: Logs) -> dict[str, str]:
    """Rank correlations of the gain over the student alone, of all runs that distil.

    That with tau is of raw logits: the z-scored are on a scale of their own.
    """
    names = [name for name in logs if name != ALONE]
    gains = {name: gain_over(logs[name], logs[ALONE]).mean for name in names}
    shares = {name: share_of_loss(logs[name]) for name in gains}
    raw = [name for name in gains if 'loss' not in logs[name][0]['loss_kd']]
    taus = {name: np.mean(_final_taus(logs[name])) for name in raw}
    return {
        f'{key}_rank': f'{spearmanr([*x.values()], [gains[name] for name in x])[0]:.2f}'
        for key, x in (('share', shares), ('tau', taus))
    }


def _told(gain: Interval, said: str) -> str:
    return f'{gain.mean:+.3f} ± {gain.half:.3f}: {said}'


def _plain(value: Interval) -> str:
    return f'{value.mean:.3f} ± {value.half:.3f}'


def _percent(value: float) -> str:
    return '-' if math.isnan(value) else f'{value:.0%}'


def _spelled(items: Iterable[str]) -> str:
    """Every different one, in the order found."""
    return ', '.join(dict.fromkeys(items))
