from __future__ import annotations

import math

import pytest

from ctkd_mm.models.temperatures.ramps import cosine_curriculum, half_cosine, progress


def test_progress_counts_the_epoch_that_is_running():
    assert [progress(epoch, end=4) for epoch in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    shares = [progress(epoch, end=6, begin=2) for epoch in range(7)]
    assert shares == [0, 0, 0.25, 0.5, 0.75, 1, 1]


def test_half_a_cosine_is_flat_at_both_ends():
    assert [half_cosine(share) for share in (0, 0.5, 1)] == pytest.approx([0, 0.5, 1])
    assert half_cosine(1e-3) == pytest.approx((math.pi * 1e-3) ** 2 / 4, rel=1e-5)


def test_lambda_is_the_papers():
    found = [cosine_curriculum(epoch, end=5) for epoch in range(6)]
    want = [0.0954915, 0.3454915, 0.6545085, 0.9045085, 1, 1]
    assert found == pytest.approx(want, abs=1e-7)


def test_lambda_goes_from_one_bound_to_the_other():
    found = [cosine_curriculum(epoch, 3, 1, 0.2, 0.6) for epoch in range(4)]
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.6])


@pytest.mark.parametrize('begin, end', [(3, 3), (4, 3), (0, float('nan')), (None, 3)])
def test_a_ramp_without_length_is_refused_with_both_ends(begin, end):
    with pytest.raises(ValueError, match=f'got begin={begin}, end={end}'):
        progress(0, end, begin)
