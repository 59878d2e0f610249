from __future__ import annotations

import pytest
import torch
from torch import nn

from ctkd_mm.models.temperatures.base import Temperature, check_tau, find_temperatures
from ctkd_mm.models.temperatures.fixed import ConstantTemperature
from ctkd_mm.models.temperatures.learned import GlobalTemperature


def test_a_temperature_keeps_its_last_tau_without_the_graph():
    temperature = Temperature()
    assert temperature.tau is None
    tau = torch.ones(1, requires_grad=True)
    assert temperature.keep(tau) is tau
    assert temperature.tau.tolist() == [1] and not temperature.tau.requires_grad


def test_temperatures_of_every_kind_are_found_by_their_paths():
    deep = nn.Sequential(nn.Linear(1, 1), nn.Sequential(GlobalTemperature()))
    model = nn.ModuleDict(dict(a=ConstantTemperature(2), b=deep))
    assert find_temperatures(model) == {'a': model['a'], 'b.1.0': deep[1][0]}
    assert find_temperatures(nn.Linear(1, 1)) == {}


def test_a_temperature_is_a_positive_finite_number():
    assert check_tau('tau', 2) == 2.0
    for value in (0, -1, float('nan'), float('inf'), '2', None):
        with pytest.raises(ValueError, match=f'tau must be > 0 .* got {value!r}'):
            check_tau('tau', value)
