"""What the demo's temperature is shown in the first 8 images, taken once."""

from __future__ import annotations

import copy
import os

import pytest
from conftest import ROOT
from mmengine.config import Config, DictAction

from ctkd_mm.analysis.suggest.shown_logits import LogitRecorder, collect


@pytest.fixture(scope='session')
def suggest_cfg(_ctkd_demo_cfg, digits_options, teacher_ckpt) -> Config:
    """The demo's CTKD config on the small set; not to be changed."""
    cfg = Config(copy.deepcopy(_ctkd_demo_cfg), format_python_code=False)
    pairs = [option.split('=', 1) for option in digits_options]
    cfg.merge_from_dict({k: DictAction._parse_iterable(v) for k, v in pairs})
    cfg.model.teacher_ckpt = str(teacher_ckpt)
    return cfg


@pytest.fixture(scope='session')
def shown(suggest_cfg) -> LogitRecorder:
    """What it is shown; starts a Runner."""
    before = os.getcwd()
    os.chdir(ROOT)  # where the config looks for the teacher's
    try:
        count, (seen,), _ = collect(suggest_cfg, 8)
    finally:
        os.chdir(before)
    assert count == 8
    return seen
