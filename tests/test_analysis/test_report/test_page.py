from __future__ import annotations

import html
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from helpers.report_run import START, STUDENT, demo_config, make_pair
from helpers.run_logs import train_line, write_log
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmengine.structures import InstanceData

from ctkd_mm.analysis.doctor.diagnose import diagnose_run
from ctkd_mm.analysis.report.detections import Detector, ValSet, evaluate_runs
from ctkd_mm.analysis.report.figures import draw_figures
from ctkd_mm.analysis.report.page import write_report
from ctkd_mm.analysis.report.runs import (
    config_differences,
    flatten,
    group_seeds,
    read_runs,
    training_minutes,
)


@pytest.fixture(scope='module')
def pair(tmp_path_factory, digits_options):
    return make_pair(tmp_path_factory.mktemp('pair'), digits_options)


@pytest.fixture(scope='module')
def page(pair, tmp_path_factory):
    out = tmp_path_factory.mktemp('page') / 'new' / 'report.html'
    return write_report(pair, out).read_text()


@pytest.fixture
def student_run(pair, tmp_path):
    return shutil.copytree(pair[1], tmp_path / 'run')


@pytest.fixture(scope='module')
def annotations(digits):
    return json.loads((digits / 'annotations' / 'val.json').read_text())


@pytest.fixture(scope='module')
def oracle_page(pair, tmp_path_factory):
    run = tmp_path_factory.mktemp('oracle') / 'run'
    shutil.copytree(pair[1], run)
    config = run / START / 'vis_data' / 'config.py'
    cfg = Config.fromfile(config)
    preprocessor = dict(type='mmdet.DetDataPreprocessor')
    cfg.model = dict(type='HalfOracle', data_preprocessor=preprocessor)
    cfg.dump(config)
    torch.save(dict(state_dict=dict(weight=torch.ones(1))), run / 'epoch_1.pth')
    return write_report([run], run / 'report.html').read_text()


def table_below(page, heading):
    """Texts of the cells of the first table below a heading, by row."""
    table = page.split(f'>{heading}</h2>')[1].split('</table>')[0]
    rows = [re.split('<t[hd]', row)[1:] for row in table.split('<tr>')[1:]]
    texts = [[re.sub('^[^>]*>|<[^>]*>', ' ', cell) for cell in row] for row in rows]
    return [[' '.join(text.split()) for text in row] for row in texts]


def test_minutes_count_each_iteration_at_the_time_logged_for_it():
    lines = [dict(step=10, time=3.0), dict(step=15, time=6.0), dict(step=20, time=6.0)]
    assert training_minutes(lines) == (10 * 3 + 5 * 6 + 5 * 6) / 60


def test_the_environment_is_what_the_log_says_before_the_config(student_run):
    (run,) = read_runs([student_run])
    assert run.environment['PyTorch'] == '2.13.0+cpu'
    assert run.environment['GPU 0,1'] == 'NVIDIA H100'
    assert run.seed == '7'
    (student_run / START / f'{START}.log').unlink()
    (run,) = read_runs([student_run])
    assert run.environment == {}
    assert run.seed == 0  # the config's


def test_a_test_in_the_same_folder_is_not_taken_for_the_start(student_run):
    (student_run / '99990101_000000' / 'vis_data').mkdir(parents=True)
    assert read_runs([student_run])[0].seed == '7'


def test_the_best_checkpoint_comes_first_and_a_moved_run_finds_its_last(student_run):
    (student_run / 'last_checkpoint').write_text('/elsewhere/run/epoch_1.pth')
    assert read_runs([student_run])[0].checkpoint == student_run / 'epoch_1.pth'
    best = student_run / 'best_coco_bbox_mAP_epoch_1.pth'
    best.touch()
    assert read_runs([student_run])[0].checkpoint == best


def test_without_a_last_checkpoint_nothing_is_printed(student_run, capsys):
    (student_run / 'last_checkpoint').unlink()
    assert read_runs([student_run])[0].checkpoint is None
    assert capsys.readouterr().out == ''


def test_a_folder_given_twice_is_one_run(pair, tmp_path):
    link = tmp_path / 'link'
    link.symlink_to(pair[1])
    again = [pair[1], pair[0], pair[0] / '..' / 'student', link]
    assert [run.name for run in read_runs(again)] == ['student', 'teacher']


def test_the_method_is_that_of_the_config(pair):
    _, student, ctkd = read_runs(pair)
    assert ctkd.method == 'CTKDLoss (GlobalTemperature)'
    assert student.method == 'no distillation loss'


def test_runs_in_folders_of_one_name_are_told_apart(tmp_path):
    folders = [tmp_path / seed / 'ctkd' for seed in ('seed0', 'seed1')]
    for folder in folders:
        log = write_log(folder, '1', [train_line(10)])
        log.with_name('config.py').write_text('')
    assert [run.name for run in read_runs(folders)] == ['seed0/ctkd', 'seed1/ctkd']


def test_a_run_inside_another_of_its_name_is_told_apart(tmp_path):
    folders = [tmp_path / 'ctkd', tmp_path / 'ctkd' / 'ctkd']
    for folder in folders:
        log = write_log(folder, '1', [train_line(10)])
        log.with_name('config.py').write_text('')
    assert [run.name for run in read_runs(folders)] == ['ctkd', 'ctkd/ctkd']


def test_a_config_is_flattened_to_what_holds_no_dict():
    config = dict(a=1, hooks=[dict(end=5), dict()], lrs=[1, 2], none=dict(b=None))
    assert flatten(config) == {
        'a': 1,
        'hooks.0.end': 5,
        'lrs': [1, 2],
        'none.b': None,
    }


def test_only_keys_that_differ_and_that_mmengine_reads_are_compared(
    tmp_path, monkeypatch
):
    monkeypatch.undo()  # conftest's stand-in for Runner.__init__ hides its arguments
    texts = (
        "model = dict(type='A', depth=18)\ncustom_hooks = [dict(type='H', end=5)]",
        "model = dict(type='D', architecture=dict(type='A', depth=50))\n"
        "custom_hooks = [dict(type='H', end=3)]\nloss_kd = dict(tau=1)\n"
        "train_cfg = dict(max_epochs=1)\nwork_dir = 'elsewhere'",
    )
    for name, text in zip('ab', texts):
        log = write_log(tmp_path / name, '1', [train_line(10)])
        log.with_name('config.py').write_text(text)
    assert config_differences(read_runs([tmp_path / 'a', tmp_path / 'b'])) == {
        'custom_hooks.0.end': ['5', '3'],
        'model.architecture.depth': ['18', '50'],
        'model.type': ['–', "'D'"],
        'train_cfg.max_epochs': ['–', '1'],
    }


def test_a_figure_shows_what_was_logged_and_none_what_was_not(pair):
    assert list(draw_figures([[run] for run in read_runs(pair)])) == [
        'Validation: coco/bbox_mAP',
        'Training loss without distillation',
        'Distillation loss, as weighted',
        'Temperature tau',
        'Curriculum lambda',
    ]
    assert len(draw_figures([read_runs(pair[:1])])) == 2


@pytest.fixture
def seeds(tmp_path):
    """Two seeds of one method, and one of another that has another set."""
    settings = dict(
        ctkd_seed0=(0, 0.25, 'dict(max_norm=1)', 'a'),
        ctkd_seed1=(1, 0.35, 'dict(max_norm=1)', 'a'),
        kd_seed0=(0, 0.5, 'dict(max_norm=2)', 'b'),
    )
    for name, (seed, score, clip, data) in settings.items():
        lines = [train_line(10, tau=2.0 + seed), {'step': 1, 'coco/bbox_mAP': score}]
        log = write_log(tmp_path / name, START, lines)
        log.with_name('config.py').write_text(
            f"model = dict(type='A')\nrandomness = dict(seed={seed})\n"
            f'optim_wrapper = dict(clip_grad={clip})\nresume = {bool(seed)}\n'
            f'load_from = {"epoch_1.pth" if seed else None!r}\n'  # of --resume PATH
            f"val_dataloader = dict(dataset=dict(ann_file='{data}.json'))\n"
        )
    return [tmp_path / name for name in settings]


def test_runs_that_differ_in_their_seeds_alone_are_one_curve(seeds, monkeypatch):
    monkeypatch.undo()  # conftest's stand-in for Runner.__init__ hides its arguments
    groups = group_seeds(read_runs(seeds))
    names = {name: [run.name for run in runs] for name, runs in groups.items()}
    assert names == {
        'ctkd_seed0 and 1 more': ['ctkd_seed0', 'ctkd_seed1'],
        'kd_seed0': ['kd_seed0'],
    }
    figures = draw_figures([*groups.values()])
    titles = [title for title in figures if title.startswith('Validation')]
    want = 'Validation: coco/bbox_mAP, {}.json'
    assert titles == [want.format('a'), want.format('b')]


def test_a_row_gives_the_mean_of_the_seeds_and_their_range(
    seeds, tmp_path, monkeypatch
):
    monkeypatch.undo()
    page = write_report(seeds, tmp_path / 'report.html').read_text()
    rows = {row[0]: row[1:] for row in table_below(page, 'Runs')}
    of_both = rows['ctkd_seed0 and 1 more mean of 2 seeds']
    assert of_both == ['0.300 0.250 to 0.350', '0.300 0.250 to 0.350', '–', '']
    assert rows['kd_seed0 no checkpoint'][0] == '0.500'
    assert 'mean of 2 seeds, lowest to highest' in page


@MODELS.register_module()
class HalfOracle(BaseModel):
    """Finds every object; takes the last five classes for the first, half as sure."""

    def __init__(self, data_preprocessor):
        super().__init__(data_preprocessor)
        self.register_buffer('weight', torch.ones(1))  # no file is without weights

    def forward(self, inputs, data_samples, mode):
        for sample in data_samples:
            truth = sample.gt_instances
            scale = truth.bboxes.new_tensor(sample.scale_factor).repeat(2)
            sample.pred_instances = InstanceData(
                bboxes=truth.bboxes / scale,
                labels=truth.labels % 5,
                scores=torch.where(truth.labels < 5, 1, 0.5),
            )
        return data_samples


def test_the_ap_of_each_class_is_that_of_its_detections(student_run):
    from mmdet.models import DetDataPreprocessor

    (run,) = read_runs([student_run])
    model = HalfOracle(DetDataPreprocessor())
    val_set = ValSet(run.config)
    detector = Detector(val_set, run.config.val_evaluator, model)
    there = {box['bbox_label'] for _, boxes in val_set.contents[1] for box in boxes}
    for label in range(10):
        ap = detector.per_class[str(label)]
        assert ap == float(label < 5) if label in there else math.isnan(ap)
    mean = len([label for label in there if label < 5]) / len(there)
    assert detector.overall == pytest.approx(mean, abs=5e-4)
    for boxes, picture in zip(detector.boxes, val_set.pictures):
        of_first = [box['label'] < 5 for box in picture['truth']]
        hits = [box['kind'] == 'hit' for box in boxes]
        assert sorted(hits) == sorted(of_first)
    assert len(val_set.pictures) == 4


def test_a_teacher_that_is_a_run_too_is_evaluated_once(pair):
    sets, reasons = evaluate_runs(read_runs(pair))
    (val_set,) = sets
    assert reasons == {}
    names = [(d.runs, d.pupils) for d in val_set.detectors.values()]
    assert names == [(['teacher'], ['ctkd']), (['student', 'ctkd'], [])]
    sizes = [d.parameters for d in val_set.detectors.values()]
    assert sizes == [3897442, 335306]


def test_the_page_holds_every_fact_and_needs_no_other_file(page):
    for text in (
        'CTKDLoss (GlobalTemperature)',
        '335,306',
        '0.250',
        '0.750',
        '2.13.0+cpu',
        'teacher_ckpt',
        'No learned temperature in the log of',
        'score of at least 0.3',
        'Temperature tau',
    ):
        assert text in page, text
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    pictures = [source for source in sources if source.startswith('data:')]
    assert len(pictures) == len(set(pictures)) == 4
    for i in range(4):
        # Once as the picture with the ground truth, and below two detectors' boxes.
        assert page.count(f'<image id="picture-1-{i}"') == 1
        assert page.count(f'<use href="#picture-1-{i}"') == 2
    assert all(source.startswith(('data:', '#')) for source in sources)
    assert 'url(http' not in page and '@import' not in page
    assert len(page) < 1_000_000


def test_a_row_of_the_runs_has_scores_size_minutes_and_seed(page):
    head, *rows = table_below(page, 'Runs')
    sizes = ('3,897,442', '335,306', '335,306')
    # (10 * 1 + 10 * 2) / 60 minutes
    time = '0.5 20 iterations'
    assert [row[1:7] for row in rows] == [
        ['0.250', '0.250 at 1', '0.750', size, time, '7'] for size in sizes
    ]
    assert head[6] == 'Seed'


def test_every_verdict_is_shown_with_what_was_seen_and_the_advice(tmp_path):
    temperature = "dict(type='ctkd_mm.GlobalTemperature')"
    config = f'model = dict(temperature={temperature})\n'
    ramps = dict(healthy=lambda epoch: {'lambda': epoch / 3}, no_ramp=lambda epoch: {})
    for name, ramp in ramps.items():
        lines = [train_line(i, epoch=i, tau=2 + i, **ramp(i)) for i in (1, 2, 3)]
        log = write_log(tmp_path / name, START, lines)
        log.with_name('config.py').write_text(config)
    runs = [tmp_path / name for name in ramps]
    page = html.unescape(write_report(runs, tmp_path / 'report.html').read_text())
    blocks = re.findall('<div class="verdict( fine)?">(.*?)</div>', page, re.DOTALL)
    for run, (fine, block) in zip(runs, blocks):
        (finding,) = diagnose_run(run)['']
        shown = (run.name, f'<b>{finding.verdict}</b>', finding.seen, finding.advice)
        assert all(text in block for text in shown)
        assert bool(fine) == (finding.verdict == 'healthy')
    assert len(blocks) == 2


def test_the_teachers_path_is_shown_without_detours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = write_log(tmp_path / 'ctkd', START, [train_line(10)])
    model = "dict(teacher_ckpt='runs/../runs/teacher/epoch_1.pth')"
    log.with_name('config.py').write_text(f'model = {model}\n')
    page = write_report(['ctkd'], tmp_path / 'report.html').read_text()
    assert '<small>from runs/teacher/epoch_1.pth</small>' in page


def test_the_ground_truths_boxes_lie_where_the_annotations_have_them(
    oracle_page, annotations
):
    number = '="([-.0-9]+)"'
    places = ' '.join(f'{key}{number}' for key in ('x', 'y', 'width', 'height'))
    shown = re.findall(f'<rect class="truth" {places}>', oracle_page)
    want = [one['bbox'] for one in annotations['annotations']]
    np.testing.assert_allclose(np.array(shown, float), want, atol=0.11)


def test_a_pictures_caption_counts_the_objects_found_and_the_wrong_boxes(
    oracle_page, annotations
):
    want, found = [], 0
    names = {one['id']: int(one['name']) for one in annotations['categories']}
    for image in annotations['images']:
        labels = [
            names[one['category_id']]
            for one in annotations['annotations']
            if one['image_id'] == image['id']
        ]
        hits = sum(label < 5 for label in labels)
        found += hits
        want.append(f'{hits} of {len(labels)} found, {len(labels) - hits} wrong')
    assert re.findall(r'<span>(\d+ of .*?)</span>', oracle_page) == want
    total = len(annotations['annotations'])
    assert oracle_page.count('<rect class="hit"') == found > 0
    assert oracle_page.count('<rect class="miss"') == total - found > 0


def test_each_class_has_its_ap_and_a_dash_without_objects(oracle_page, annotations):
    names = {one['id']: one['name'] for one in annotations['categories']}
    there = {names[one['category_id']] for one in annotations['annotations']}
    ap = {name: f'{int(name) < 5:.3f}' for name in there}
    _, (_, overall), *rows = table_below(oracle_page, 'AP of each class')
    assert rows == [[name, ap.get(name, '–')] for name in names.values()]
    mean = sum(map(float, ap.values())) / len(ap)
    assert float(overall) == pytest.approx(mean, abs=6e-4)


def test_text_of_a_config_stays_text(page):
    assert '&lt;script&gt;' in page
    assert '<script' not in page


def test_what_cannot_be_evaluated_says_why_and_the_rest_is_shown(pair, tmp_path):
    runs = [shutil.copytree(run, tmp_path / run.name) for run in pair[1:]]
    for name in ('epoch_1.pth', 'last_checkpoint'):
        (runs[0] / name).unlink()
    config = runs[1] / START / 'vis_data' / 'config.py'
    text = config.read_text().replace(str(pair[0] / 'epoch_1.pth'), 'gone.pth')
    config.write_text(text)
    sets, reasons = evaluate_runs(read_runs(runs))
    assert 'gone.pth' in reasons['the teacher of ctkd']
    assert 'holds no checkpoint' in reasons['student']
    assert [d.runs for d in sets[0].detectors.values()] == [['ctkd']]


def test_a_teacher_of_other_classes_is_not_evaluated_by_their_labels(pair, tmp_path):
    ctkd = shutil.copytree(pair[2], tmp_path / 'ctkd')
    checkpoint = torch.load(pair[0] / 'epoch_1.pth')
    checkpoint['meta']['dataset_meta'] = dict(classes=tuple('9876543210'))
    torch.save(checkpoint, tmp_path / 'other.pth')
    config = ctkd / START / 'vis_data' / 'config.py'
    ours, theirs = str(pair[0] / 'epoch_1.pth'), str(tmp_path / 'other.pth')
    config.write_text(config.read_text().replace(ours, theirs))
    sets, reasons = evaluate_runs(read_runs([ctkd]))
    assert reasons['the teacher of ctkd'].startswith('its classes are others')
    assert [d.runs for d in sets[0].detectors.values()] == [['ctkd']]


def test_without_the_images_the_page_is_written_all_the_same(student_run, tmp_path):
    config = student_run / START / 'vis_data' / 'config.py'
    config.write_text(config.read_text().replace('val.json', 'gone.json'))
    page = write_report([student_run], tmp_path / 'report.html').read_text()
    assert 'gone.json' in page and 'No run could be evaluated' in page
    assert '<image' not in page


def test_runs_validated_on_other_images_are_not_compared(
    student_run, tmp_path, digits_options
):
    other = demo_config(STUDENT, digits_options)
    dataset = other.val_dataloader.dataset
    dataset.update(indices=2)
    log = write_log(tmp_path / 'other', START, [train_line(10)])
    other.dump(log.with_name('config.py'))
    shutil.copy(student_run / 'epoch_1.pth', tmp_path / 'other')
    (tmp_path / 'other' / 'last_checkpoint').write_text('epoch_1.pth')
    folders = [student_run, tmp_path / 'other']
    page = write_report(folders, tmp_path / 'report.html').read_text()
    assert 'validated on 2 different sets' in page
    assert page.count('box AP, mean over') == 2


def test_runs_validated_on_copies_of_a_set_share_its_pictures(
    pair, digits, student_run, tmp_path
):
    copied = shutil.copytree(digits, tmp_path / 'digits')
    config = student_run / START / 'vis_data' / 'config.py'
    cfg = Config.fromfile(config)
    cfg.val_dataloader.dataset.data_root = str(copied)
    cfg.dump(config)
    page = write_report([pair[0], student_run], tmp_path / 'report.html').read_text()
    assert page.count('<image id="picture-1-') == 4
    assert page.count('<use href="#picture-1-') == 2 * 4


def test_a_folder_without_a_run_is_refused_on_the_command_line(tmp_path):
    from ctkd_mm.cli import report

    with pytest.raises(SystemExit, match='is not written.*has no JSON log'):
        report([str(tmp_path), '--out', str(tmp_path / 'report.html')])
    write_log(tmp_path, '1', [train_line(1)])
    with pytest.raises(SystemExit, match='is not written.*config.py'):
        report([str(tmp_path), '--out', str(tmp_path / 'report.html')])


@pytest.mark.start
def test_a_training_logs_it_all_for_the_report_and_for_tensorboard(demo_cfg):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    demo_cfg.train_cfg.max_epochs = 1
    demo_cfg.log_level = 'INFO'  # the environment is logged at this level
    demo_cfg.default_hooks.logger.interval = 1
    backends = ('LocalVisBackend', 'TensorboardVisBackend')
    demo_cfg.visualizer.vis_backends = [dict(type=name) for name in backends]
    Runner.from_cfg(demo_cfg).train()
    (run,) = read_runs([demo_cfg.work_dir])
    assert run.environment['PyTorch'] == torch.__version__
    assert run.seed == str(demo_cfg.randomness.seed)
    assert run.checkpoint.name == 'epoch_1.pth'
    (events,) = run.path.glob('*/vis_data/**/events*')
    live = EventAccumulator(str(events)).Reload()
    for name in ('loss', 'student.loss_cls', 'distill.loss_kd', 'tau', 'lambda'):
        shown = [scalar.value for scalar in live.Scalars(name)]
        assert shown == pytest.approx([line[name] for line in run.scalars])
    (shown,) = live.Scalars('coco/bbox_mAP')
    assert shown.value == pytest.approx(run.metrics[0]['coco/bbox_mAP'])
