from __future__ import annotations

import pytest
from helpers.logit_run import Distilled, make_runner

from ctkd_mm import GlobalTemperature
from ctkd_mm.analysis.run_log import read_scalars

pytestmark = pytest.mark.start

HISTORY = dict(type='ctkd_mm.HistoryHook')
TRAINED = 24  # iterations, in 4 epochs of 6, logged every second


def train(tmp_path, hook, window, *custom):
    """Train; return the number of losses kept, and the log but for times."""
    processor = dict(window_size=window, custom_cfg=list(custom))
    model = Distilled(GlobalTemperature())
    runner = make_runner(tmp_path, model, hook, log_processor=processor)
    runner.train()
    values, counts = runner.message_hub.log_scalars['train/loss'].data
    assert len(values) == len(counts)
    lines = read_scalars(tmp_path)
    return len(values), [(line['step'], line['loss']) for line in lines]


@pytest.mark.parametrize(
    ('windows', 'kept'),
    [
        ([], 3),
        (['epoch'], 6),
        (['global'], TRAINED),
        ([None], TRAINED),  # MMEngine then takes all values
        ([5], 5),
    ],
)
def test_the_longest_window_is_kept_and_the_log_is_the_same(tmp_path, windows, kept):
    custom = [
        dict(data_src='loss', method_name='max', window_size=window)
        if window
        else dict(data_src='loss', method_name='max')
        for window in windows
    ]
    length, lines = train(tmp_path / 'bounded', HISTORY, 3, *custom)
    assert length == kept
    endless, same_lines = train(
        tmp_path / 'endless', dict(type='ParamSchedulerHook'), 3, *custom
    )
    assert endless == TRAINED
    assert lines == same_lines


def test_no_logger_and_no_window_of_a_number_leave_the_processors_window(tmp_path):
    model = Distilled(GlobalTemperature())
    runner = make_runner(tmp_path, model, HISTORY, dict(by_epoch=True, max_epochs=2))
    runner._hooks = [h for h in runner.hooks if type(h).__name__ != 'LoggerHook']
    runner.train()
    assert len(runner.message_hub.log_scalars['train/loss'].data[0]) == 10
