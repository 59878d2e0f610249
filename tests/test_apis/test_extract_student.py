from __future__ import annotations

import pytest
import torch

from ctkd_mm.apis.extract_student import extract_student


def test_a_checkpoint_is_not_replaced_by_its_student(tmp_path, monkeypatch):
    path = tmp_path / 'epoch_1.pth'
    torch.save({'state_dict': {'architecture.a': torch.ones(1)}}, path)
    before = path.read_bytes()
    monkeypatch.chdir(tmp_path)
    for out in (path, 'epoch_1.pth'):
        with pytest.raises(ValueError, match='whose training could not resume'):
            extract_student(path, out)
    assert path.read_bytes() == before
    out = extract_student(path)
    assert out == tmp_path / 'epoch_1_student.pth'
    assert torch.load(out)['state_dict'] == {'a': torch.ones(1)}
