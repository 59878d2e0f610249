"""ctkd_mm.compat.patches against the real MMEngine and torch."""

import functools
import http.server
import json
import os
import pickle
import sys
import threading
import zipfile

import numpy as np
import pytest
import torch
from helpers.toy_run import toy_runner
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hub import get_config
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner, checkpoint
from mmengine.utils import digit_version
from torch import nn

from ctkd_mm.compat import patches

RESTRICTED = digit_version(torch.__version__) >= digit_version('2.6.0')
needs_restricted_load = pytest.mark.skipif(
    not RESTRICTED, reason='torch < 2.6 loads without restriction'
)


@pytest.fixture(autouse=True)
def _no_opt_in(monkeypatch):
    monkeypatch.delenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', raising=False)


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, inputs, mode='tensor'):
        out = self.linear(torch.stack(list(inputs)))
        return {'loss': out.square().mean()} if mode == 'loss' else [out]


class Float32Metric(BaseMetric):
    """Gives what NumPy gives: a float32 scalar, which save_best stores."""

    default_prefix = 'toy'

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return {'score': np.float32(0.5)}


def build_runner(work_dir, epochs, resume=False):
    data = [{'inputs': torch.tensor([float(i), 1.0])} for i in range(4)]
    loader = {
        'dataset': data,
        'batch_size': 2,
        'sampler': {'type': 'DefaultSampler', 'shuffle': False},
    }
    torch.manual_seed(0)
    return Runner(
        model=Toy(),
        work_dir=str(work_dir),
        train_dataloader=loader,
        val_dataloader=loader,
        train_cfg={'by_epoch': True, 'max_epochs': epochs},
        val_cfg={},
        val_evaluator=[Float32Metric()],
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9}},
        param_scheduler={'type': 'MultiStepLR', 'milestones': [1], 'by_epoch': True},
        default_hooks={
            'checkpoint': {
                'type': 'CheckpointHook',
                'save_best': 'toy/score',
                'rule': 'greater',
            }
        },
        custom_hooks=[{'type': 'EMAHook'}],
        resume=resume,
        log_level='WARNING',
        default_scope='mmengine',
        experiment_name=f'{work_dir.name}-{epochs}',
    )


@pytest.mark.start
def test_a_run_resumed_from_mmengines_own_checkpoint_equals_one_that_never_stopped(
    tmp_path,
):
    straight = build_runner(tmp_path / 'straight', epochs=3)
    straight.train()
    build_runner(tmp_path / 'resumed', epochs=2).train()
    resumed = build_runner(tmp_path / 'resumed', epochs=3, resume=True)
    resumed.train()
    assert (resumed.epoch, resumed.iter) == (3, 6)
    for name, value in straight.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    # Also the entries from before the stop: they came out of the file.
    losses = [run.message_hub.get_scalar('train/loss') for run in (straight, resumed)]
    np.testing.assert_array_equal(losses[1].data, losses[0].data)
    score = resumed.message_hub.get_info('best_score')
    assert (score, type(score)) == (0.5, np.float32)


def checkpoint_with(extra):
    """A checkpoint of MMEngine's layout around ``extra``."""
    return {'state_dict': {'weight': torch.ones(2)}, 'message_hub': extra}


def load(path):
    return CheckpointLoader.load_checkpoint(str(path), logger='silent')


def save(path, content):
    torch.save(content, str(path))
    return path


def rename_in_pickle(path, old, new):
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, 'w') as archive:
        for name, record in records.items():
            if name.endswith('data.pkl'):
                record = record.replace(old.encode(), new.encode())
                assert new.encode() in record
            archive.writestr(name, record)


@pytest.mark.parametrize('package', ['numpy.core', 'numpy._core'])
def test_checkpoints_of_numpy_1_and_2_load(tmp_path, package):
    buffer = HistoryBuffer([1.0, 3.0], [1, 1])
    content = checkpoint_with({'loss': buffer, 'score': np.float64(0.25)})
    path = save(tmp_path / 'a.pth', content)
    here = np.zeros(1).__reduce__()[0].__module__.rsplit('.', 1)[0]
    rename_in_pickle(path, f'{here}.multiarray', f'{package}.multiarray')
    loaded = load(path)['message_hub']
    np.testing.assert_array_equal(loaded['loss'].data, buffer.data)
    assert loaded['loss'].statistics('mean') == 2.0
    assert loaded['score'] == 0.25


@pytest.mark.parametrize('code', '?bhilqBHILQefd')
def test_numpy_numbers_of_every_kind_load(tmp_path, code):
    value = np.ones(3, dtype=code)
    path = save(tmp_path / 'a.pth', checkpoint_with([value, value[0]]))
    array, scalar = load(path)['message_hub']
    np.testing.assert_array_equal(array, value)
    assert (array.dtype, scalar) == (value.dtype, value[0])


class Call:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@needs_restricted_load
def test_a_file_that_calls_os_system_is_refused_and_the_command_not_run(tmp_path):
    ran = tmp_path / 'ran'
    path = save(tmp_path / 'a.pth', checkpoint_with(Call(os.system, f'touch {ran}')))
    with pytest.raises(pickle.UnpicklingError, match=rf'{path} .*\.system') as info:
        load(path)
    assert 'weights_only' not in str(info.value)  # torch's advice, wrong for these
    assert 'add_safe_globals' not in str(info.value)
    assert not ran.exists()
    torch.load(str(path), weights_only=False)
    assert ran.exists(), 'the file was harmless: this test shows nothing'


@needs_restricted_load
@pytest.mark.parametrize(
    'call',
    [
        Call(getattr, HistoryBuffer, 'register_statistics'),
        Call(getattr, HistoryBuffer, '__init__'),
        Call(getattr, np.ndarray, 'tofile'),
        Call(getattr, torch.Tensor, 'mean'),
    ],
)
def test_getattr_gives_a_file_nothing_but_mmengines_statistics(tmp_path, call):
    path = save(tmp_path / 'a.pth', checkpoint_with(call))
    with pytest.raises(pickle.UnpicklingError, match=r'not loaded: getattr\(<class'):
        load(path)
    # The mapping, not the function, is allowed: getattr itself stays out.
    assert getattr not in torch.serialization.get_safe_globals()


class Unknown:
    """A type that no allow-list knows."""


def assert_refused(info, source, kind):
    message = str(info.value)
    assert str(source) in message
    assert f'{kind.__module__}.{kind.__name__}' in message
    assert 'torch.serialization.add_safe_globals([' in message
    assert 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1' in message


@needs_restricted_load
def test_a_refusal_names_the_file_a_type_in_it_and_the_opt_ins(tmp_path):
    path = save(tmp_path / 'a.pth', checkpoint_with(Unknown()))
    with pytest.raises(pickle.UnpicklingError) as info:
        load(path)
    assert_refused(info, path, Unknown)


@needs_restricted_load
def test_a_refusal_names_a_type_that_no_listing_shows(tmp_path):
    strings = np.array(['a', 'b'])
    path = save(tmp_path / 'a.pth', checkpoint_with(strings))
    with pytest.raises(pickle.UnpicklingError) as info:
        load(path)
    assert_refused(info, path, type(strings.dtype))


@needs_restricted_load
def test_the_refusal_of_a_pre_zip_file_names_its_type(tmp_path):
    path = tmp_path / 'a.pth'
    content = checkpoint_with(Unknown())
    torch.save(content, str(path), _use_new_zipfile_serialization=False)
    with pytest.raises(pickle.UnpicklingError) as info:
        load(path)
    assert_refused(info, path, Unknown)


@needs_restricted_load
def test_allowing_the_type_loads_the_file(tmp_path):
    path = save(tmp_path / 'a.pth', checkpoint_with(Unknown()))
    with torch.serialization.safe_globals([Unknown]):
        assert isinstance(load(path)['message_hub'], Unknown)


@needs_restricted_load
@pytest.mark.filterwarnings('ignore:Environment variable TORCH_FORCE')
def test_torchs_own_variable_loads_the_file(tmp_path, monkeypatch):
    path = save(tmp_path / 'a.pth', checkpoint_with(Unknown()))
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    assert isinstance(load(path)['message_hub'], Unknown)


@needs_restricted_load
@pytest.mark.parametrize('content', [b'<html>404</html>', b'half', b'\x80\x02.', b''])
def test_a_damaged_file_is_named_and_not_taken_for_an_unsafe_one(tmp_path, content):
    path = tmp_path / 'a.pth'
    path.write_bytes(content)
    with pytest.raises(
        pickle.UnpicklingError, match=f'^{path} could not be read'
    ) as info:
        load(path)
    assert 'add_safe_globals' not in str(info.value)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match='nothing.pth'):
        load(tmp_path / 'nothing.pth')


class SilentHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves a folder; gives the folder and its URL."""
    folder = tmp_path / 'served'
    folder.mkdir()
    # Both cache downloads by file name, below the home folder.
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path / 'mmengine'))
    handler = functools.partial(SilentHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f'http://127.0.0.1:{httpd.server_port}'
        httpd.shutdown()
        thread.join()


def test_a_checkpoint_of_mmengine_loads_over_http(server):
    folder, url = server
    save(folder / 'a.pth', checkpoint_with(HistoryBuffer([2.0], [1])))
    assert load(f'{url}/a.pth')['message_hub'].current() == 2.0


@needs_restricted_load
def test_an_unsafe_file_is_refused_over_http(server, monkeypatch):
    folder, url = server
    save(folder / 'a.pth', checkpoint_with(Unknown()))
    with pytest.raises(pickle.UnpicklingError) as info:
        load(f'{url}/a.pth')
    assert_refused(info, f'{url}/a.pth', Unknown)


@needs_restricted_load
def test_an_unsafe_file_is_refused_behind_a_model_zoo_name(server, tmp_path):
    folder, url = server
    save(folder / 'a.pth', checkpoint_with(Unknown()))
    (tmp_path / 'mmengine').mkdir()
    names = {'some_model': f'{url}/a.pth'}
    (tmp_path / 'mmengine' / 'open_mmlab.json').write_text(json.dumps(names))
    with pytest.raises(pickle.UnpicklingError) as info:
        load('open-mmlab://some_model')
    assert_refused(info, 'open-mmlab://some_model', Unknown)


@needs_restricted_load
def test_an_unsafe_file_is_refused_behind_the_name_of_a_local_file(
    tmp_path, monkeypatch
):
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path))
    save(tmp_path / 'a.pth', checkpoint_with(Unknown()))
    (tmp_path / 'open_mmlab.json').write_text(json.dumps({'some_model': 'a.pth'}))
    with pytest.raises(pickle.UnpicklingError, match='Unknown'):
        load('open-mmlab://some_model')


@needs_restricted_load
@pytest.mark.filterwarnings('ignore:Environment variable TORCH_FORCE')
def test_torchs_own_variable_serves_over_http_too(server, monkeypatch):
    folder, url = server
    save(folder / 'a.pth', checkpoint_with(Unknown()))
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    assert isinstance(load(f'{url}/a.pth')['message_hub'], Unknown)


@pytest.mark.skipif(RESTRICTED, reason='torch >= 2.6 needs the repair')
def test_a_torch_that_restricts_nothing_keeps_mmengines_loaders():
    assert checkpoint.load_url is torch.hub.load_state_dict_from_url
    assert CheckpointLoader._schemes[''] is checkpoint.load_from_local


@pytest.mark.parametrize('name', ['resnet18', 'resnet50', 'mobilenet_v2'])
def test_torchvisions_weights_are_found_without_torchvision(monkeypatch, name):
    asked = []
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    # As it is where torchvision is installed.
    monkeypatch.setattr(checkpoint, 'get_torchvision_models', None)
    monkeypatch.setattr(checkpoint, 'load_url', lambda url, **_: asked.append(url))
    patches._find_torchvision_urls(checkpoint)
    CheckpointLoader.load_checkpoint(f'torchvision://{name}')
    assert [url.rpartition('/')[2].partition('-')[0] for url in asked] == [name]


def test_an_unknown_name_of_a_zoo_keeps_its_own_error():
    with pytest.raises(KeyError, match='no_such_model'):
        CheckpointLoader.load_checkpoint('open-mmlab://no_such_model')


@pytest.mark.start
def test_none_switches_any_default_hook_off(tmp_path):
    off = dict.fromkeys(['preemption', 'logger', 'of_nobody'])
    hooks = dict(reseed=dict(type='ctkd_mm.ReseedHook'), **off)
    runner = toy_runner(tmp_path, default_hooks=hooks)
    kinds = [type(hook).__name__ for hook in runner.hooks]
    assert kinds.count('Hook') == 3  # which does nothing
    assert {'ReseedHook', 'CheckpointHook'} < set(kinds)
    assert not {'PreemptionHook', 'LoggerHook'} & set(kinds)
    runner.train()


def test_configs_of_packages_are_found_by_name(root, tmp_path):
    name = 'demo/faster-rcnn_r18-half_fpn_digits.py'
    named = Config.fromfile(f'ctkd_mm::{name}')
    assert named.to_dict() == Config.fromfile(root / 'configs' / name).to_dict()
    own = tmp_path / 'own.py'
    own.write_text(f"_base_ = 'ctkd_mm::{name}'\nwork_dir = 'x'\n")
    assert Config.fromfile(own).to_dict() == {**named.to_dict(), 'work_dir': 'x'}
    zoo = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
    assert Config.fromfile(zoo).to_dict() == get_config(zoo).to_dict()
    with pytest.raises(FileNotFoundError, match='lost.py'):
        Config.fromfile('ctkd_mm::demo/lost.py')
