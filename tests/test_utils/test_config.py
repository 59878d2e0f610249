from __future__ import annotations

import pytest
from mmengine.config import ConfigDict

from ctkd_mm.utils.config import bare, walk


def test_a_walk_gives_every_setting_with_its_dotted_key():
    cfg = ConfigDict(model=dict(heads=[dict(type='A'), 3]), seed=None)
    assert list(walk(cfg)) == [
        ('', cfg),
        ('model', cfg.model),
        ('model.heads', cfg.model.heads),
        ('model.heads.0', dict(type='A')),
        ('model.heads.0.type', 'A'),
        ('model.heads.1', 3),
        ('seed', None),
    ]


def test_a_walk_may_begin_at_a_part():
    assert list(walk((1,), 'train')) == [('train', (1,)), ('train.0', 1)]


@pytest.mark.parametrize(
    ('name', 'want'),
    [('ctkd_mm.DKDLoss', 'DKDLoss'), ('SGD', 'SGD'), (ConfigDict, 'ConfigDict')],
)
def test_a_bare_name_has_no_scope(name, want):
    assert bare(name) == want
