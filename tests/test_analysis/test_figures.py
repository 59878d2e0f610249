from __future__ import annotations

import cv2
import pytest
from helpers.run_logs import train_line, write_log

from ctkd_mm.analysis.figures import plot_curriculum


def test_draws_a_png_of_several_runs(tmp_path):
    for name in ('a', 'b'):
        lines = [
            {**train_line(i, tau=i, tau_min=i - 1, tau_max=i + 2), 'lambda': 0.5}
            for i in range(1, 5)
        ]
        write_log(tmp_path / name, '1', lines)
    out = plot_curriculum([tmp_path / 'a', tmp_path / 'b'], tmp_path / 'new' / 'c.png')
    image = cv2.imread(str(out))
    assert image.shape[0] > 300
    # Two tau curves in matplotlib's first two colours.
    for blue, green, red in [(180, 119, 31), (14, 127, 255)]:
        assert (abs(image.astype(int) - (blue, green, red)).sum(2) < 12).any()


def test_a_tau_that_comes_later_or_lacks_its_band_is_drawn_too(tmp_path):
    band = dict(tau_min=1, tau_max=4)
    lines = [train_line(1), train_line(2, tau=2, **band), train_line(3, tau=3)]
    write_log(tmp_path, '1', lines)
    image = cv2.imread(str(plot_curriculum([tmp_path], tmp_path / 'c.png')))
    assert (abs(image.astype(int) - (180, 119, 31)).sum(2) < 12).any()


def test_a_run_without_tau_is_refused(tmp_path):
    write_log(tmp_path, '1', [train_line(1)])
    with pytest.raises(ValueError, match='has no tau'):
        plot_curriculum([tmp_path], tmp_path / 'c.png')
