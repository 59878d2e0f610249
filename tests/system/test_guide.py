"""What the guide's pages say, held against the code, the configs and other pages."""

from __future__ import annotations

import ast
import functools
import json
import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner, save_checkpoint

import ctkd_mm
from ctkd_mm.apis.extract_student import extract_student
from ctkd_mm.apis.new_pair import new_pair
from ctkd_mm.demo.digits import make_demo_data

ROOT = Path(__file__).parents[2]
PACKAGE = Path(ctkd_mm.__file__).parent
PAGES = ('own-detector.md', 'coco.md', 'coming-from-yolo.md', 'troubleshooting.md')
NAMING = (*PAGES, 'getting-started.md', 'methods.md', 'install.md')
CLASSES = ('bolt', 'nut', 'washer')
# What makes the page's run short, and independent of a network.
SHORT = {
    'train_dataloader.batch_size': 2,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'train_dataloader.dataset.pipeline.2.scale': (64, 64),
    'train_dataloader.dataset.indices': 2,
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
    'val_dataloader.dataset.pipeline.1.scale': (64, 64),
    'train_cfg.max_epochs': 1,
}


def page(name: str) -> str:
    return (ROOT / 'docs' / name).read_text()


def blocks(name: str, language: str) -> list[str]:
    found = re.findall(rf'^ *```{language}\n(.*?)^ *```', page(name), re.S | re.M)
    assert found, f'{name} has no {language} block'
    return found


@functools.lru_cache(None)
def templates() -> list[str]:
    """Every string in the package, '\\0' where an f-string has a value."""
    found = []
    for path in PACKAGE.rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [getattr(v, 'value', None) for v in node.values]
                found.append(''.join(p if isinstance(p, str) else '\0' for p in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def message_blocks() -> list[str]:
    return [' '.join(block.split()) for block in blocks('troubleshooting.md', 'text')]


def pattern(message: str) -> re.Pattern:
    """What a source string must contain: the message, anything where it has '...'."""
    return re.compile('.*?'.join(re.escape(p) for p in message.split('...')), re.S)


@pytest.mark.parametrize('message', message_blocks())
def test_a_message_in_the_troubleshooting_is_one_of_the_package(message):
    texts = templates()
    assert any(pattern(message).search(text) for text in texts), message
    words = re.findall(r'\w+', message.replace('...', ''))
    assert len(words) >= 3, 'so short that it would match by chance'


def test_a_message_that_is_none_of_the_package_is_found_out():
    texts = templates()
    message = 'model.teacher_ckpt is None: the teacher would be haphazard.'
    assert not any(pattern(message).search(text) for text in texts)


@pytest.mark.parametrize('name', NAMING)
def test_the_pages_name_files_that_are_there(name):
    named = re.findall(
        r'(?<![\w/.-])((?:tools|configs|benchmarks|tests)/[\w./*-]+)', page(name)
    )
    named = {path.rstrip('.') for path in named}
    assert named
    for path in named:
        assert any(ROOT.glob(path)), path


@pytest.mark.parametrize('name', PAGES)
def test_the_pages_link_within_the_guide_and_to_headings_that_are_there(name):
    links = re.findall(r'\]\(((?!https?:)[^)]+)\)', page(name))
    for link in links:
        target, _, anchor = link.partition('#')
        target = target or name
        assert re.fullmatch(r'[\w-]+\.md', target), f'{link} leaves docs/'
        if anchor:
            titles = re.findall(r'^#+ (.*)$', page(target), re.M)
            slugs = {
                re.sub(r'[^\w\- ]', '', t.lower()).replace(' ', '-') for t in titles
            }
            assert anchor in slugs, link


def test_the_threads_are_cited_with_their_own_numbers():
    for text, url in re.findall(
        r'\[([^\]]+)\]\((https://github.com/[^)\s]+)\)', page('troubleshooting.md')
    ):
        number = re.search(r'\d+$', text)
        if number and '/issues/' in url:
            assert url.endswith(f'/issues/{number.group()}'), (text, url)


# coco.md: figures derived from those of the other pages.


def table(text: str, title: str) -> dict[str, list[str]]:
    """Rows, by their first cell, of the table whose first column has this title."""
    lines = text.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith(f'| {title} |'))
    rows = {}
    for line in lines[begin + 2 :]:
        if not line.startswith('|'):
            break
        first, *others = (cell.strip() for cell in line.strip('|').split('|'))
        rows[first] = others
    return rows


def numbers(cell: str) -> list[float]:
    return [float(x.replace(',', '')) for x in re.findall(r'[\d][\d,.]*', cell)]


def test_the_times_are_the_operations_times_mmdetections_step():
    source, derived = page('scaling.md'), table(page('coco.md'), 'pair')
    flops = table(source, 'pair')
    (iterations,) = numbers(table(source, 'GPUs | batch')['8'][4])
    assert f'{iterations:,.0f} iterations' in page('coco.md')
    base = numbers(flops['r101-to-r50'][5])[0]
    for pair, cells in derived.items():
        (student,), (share,) = numbers(flops[pair][5]), numbers(flops[pair][7])
        alone = 0.216 * student / base
        step = alone * (1 + share)
        hours = step * iterations / 3600
        assert numbers(cells[0]) == pytest.approx([alone], abs=6e-4)
        assert numbers(cells[1]) == pytest.approx([1 + share, step], abs=6e-4)
        assert numbers(cells[2]) == pytest.approx([hours], abs=0.06)
        assert numbers(cells[3]) == pytest.approx([8 * hours], abs=0.6)


def test_the_slowdown_and_the_memory_are_those_of_the_benchmark():
    rows = table(page('performance.md'), 'side')
    text = ' '.join(page('coco.md').split())
    student, ours = ([numbers(c) for c in rows[k]] for k in ('student', 'ctkd'))
    ratios = [b[1] / a[1] for a, b in zip(student, ours)]
    more = [b[2] - a[2] for a, b in zip(student, ours)]
    assert f'{ratios[2]:.2f} to {ratios[0]:.2f} times' in text
    assert f'R18 {ratios[1]:.2f} times' in text
    assert more[0] == more[2]
    assert f'{more[0]:.0f} MiB beside R50 and {more[1]:.0f} MiB beside R18' in text
    checkpoints = re.findall(r'R\d+ \| ours \| ([\d.]+) \|', page('performance.md'))
    sizes = [f'{float(size):.0f} MB' for size in checkpoints]
    assert f'{sizes[0]} (R18) or {sizes[1]} (R50)' in text


def test_the_learning_rates_are_what_the_config_scales_to():
    cfg = Config.fromfile(
        ROOT / 'configs/ctkd/ctkd_faster-rcnn_r101-to-r18_fpn_1x_coco.py'
    )
    rate, base = cfg.optim_wrapper.optimizer.lr, cfg.auto_scale_lr.base_batch_size
    (mult,) = cfg.optim_wrapper.paramwise_cfg.custom_keys.values()
    rows = table(page('coco.md'), 'GPUs x images')
    assert len(rows) == 3
    for cells in rows.values():
        batch, lr, of_tau = (numbers(cell)[0] for cell in cells)
        assert lr == pytest.approx(rate * batch / base)
        assert of_tau == pytest.approx(lr * mult['lr_mult'])


# own-detector.md: its configs, on a small set of its classes.


@pytest.fixture(scope='module')
def parts(tmp_path_factory) -> Path:
    """A checkout with the page's configs and data set."""
    root = tmp_path_factory.mktemp('checkout')
    (root / 'configs').symlink_to(ROOT / 'configs')
    for text in blocks('own-detector.md', 'python'):
        path = root / re.match(r'# (\S+\.py)\n', text).group(1)
        path.parent.mkdir(exist_ok=True)
        with path.open('a') as file:  # a later block goes below the first
            file.write(text)
    data = make_demo_data(root / 'data' / 'parts', num_train=4, num_val=2)
    for file in (data / 'annotations').glob('*.json'):
        coco = json.loads(file.read_text())
        label = {c['id']: i % 3 for i, c in enumerate(coco['categories'])}
        coco['categories'] = [dict(id=7 * i, name=c) for i, c in enumerate(CLASSES)]
        for annotation in coco['annotations']:
            annotation['category_id'] = 7 * label[annotation['category_id']]
        file.write_text(json.dumps(coco))
    return root


@pytest.fixture
def pair(parts: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Config:
    """The page's distillation config, as new_pair writes it, made short."""
    monkeypatch.chdir(parts)
    out, ckpt = parts / 'my' / 'parts_ctkd.py', parts / 'teacher.pth'
    if not out.exists():
        teacher = Config.fromfile('my/parts_teacher.py').model
        teacher.backbone.init_cfg = None
        model = MODELS.build(teacher)
        model.init_weights()
        meta = dict(dataset_meta=dict(classes=CLASSES))
        save_checkpoint(dict(meta=meta, state_dict=model.state_dict()), str(ckpt))
        pages = 'my/parts_teacher.py', 'my/parts_student.py'
        new_pair(*pages, str(out), teacher_ckpt=str(ckpt))
    cfg = Config.fromfile(out)
    cfg.merge_from_dict({**SHORT, 'model.architecture.backbone.init_cfg': None})
    cfg.log_level, cfg.work_dir = 'ERROR', str(tmp_path / 'run')
    # MMEngine keeps one visualizer a name for the whole process.
    cfg.visualizer.name = str(tmp_path)
    return cfg


def test_the_pages_teacher_and_student_are_detectors_of_its_classes(parts, monkeypatch):
    monkeypatch.chdir(parts)
    for role in ('teacher', 'student'):
        cfg = Config.fromfile(f'my/parts_{role}.py')
        assert cfg.model.roi_head.bbox_head.num_classes == len(CLASSES)
        assert cfg.metainfo.classes == CLASSES
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[1].end == 48


@pytest.mark.start
def test_the_pages_student_is_trained_extracted_and_detects(pair, parts):
    Runner.from_cfg(pair).train()  # which begins with what check.py does
    student = extract_student(Path(pair.work_dir) / 'epoch_1.pth')
    (block,) = [b for b in blocks('own-detector.md', 'python') if 'DetInferencer' in b]
    block = block.replace('work_dirs/parts_ctkd/epoch_12_student.pth', str(student))
    image = next((parts / 'data' / 'parts' / 'val').iterdir())
    names: dict = {}
    exec(block.replace('data/parts/val/0001.jpg', str(image)), names)
    assert len(names['found']['labels']) == len(names['found']['bboxes'])
    assert set(names['found']['labels']) <= {0, 1, 2}


# coming-from-yolo.md: its pair, from the student's config to the checked one.


def test_the_yolo_pages_pair_has_the_students_epochs_and_ends_with_the_mosaic(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (text,) = [b for b in blocks('coming-from-yolo.md', 'python') if '_base_ =' in b]
    Path('tiny.py').write_text(text)
    Path('s.py').write_text(text.replace('rtmdet_tiny', 'rtmdet_s'))
    new_pair('s.py', 'tiny.py', 'pair.py', teacher_ckpt='teacher.pth')
    cfg = Config.fromfile('pair.py')
    epochs, last = cfg.train_cfg.max_epochs, cfg.custom_hooks[1].switch_epoch
    assert cfg.param_scheduler[1].end == epochs == 100
    assert cfg.default_hooks.stop.stop_epoch == last == 90
    assert cfg.train_cfg.dynamic_intervals == [(last, 1)]
    for model in (cfg.model.architecture, Config.fromfile('s.py').model):
        assert model.bbox_head.num_classes == len(cfg.metainfo.classes)
