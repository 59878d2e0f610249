from __future__ import annotations

import pytest

from ctkd_mm.utils.messages import nearest, some


def test_some_names_are_spelt_out_and_the_others_counted():
    assert some('abc') == 'a, b, c'
    assert some('abcde', 2) == 'a, b and 3 more'


@pytest.mark.parametrize(
    ('name', 'want'),
    [('tau_rnage', ': did you mean tau_range?'), ('momentum', '')],
)
def test_the_nearest_name_is_suggested(name, want):
    assert nearest(name, {'tau_range', 'tau_init'}) == want
