"""A config for any two of MMDetection's detectors, checked without their weights."""

from __future__ import annotations

from pathlib import Path
from tempfile import NamedTemporaryFile

from mmengine.config import Config
from mmengine.registry import DefaultScope

from ctkd_mm.apis.model_zoo import find_config, load_config, zoo_weights
from ctkd_mm.apis.pair_template import BASES, bare, render
from ctkd_mm.checks.config import check_hook_names
from ctkd_mm.checks.teacher import check_class_names

DISTILLERS = {
    'two-stage': 'ctkd_mm.RoILogitDistill',
    'one-stage': 'ctkd_mm.DenseLogitDistill',
}
LOOPS = ('EpochBasedTrainLoop', 'IterBasedTrainLoop')
# They read no names of parameters but paramwise_cfg's.
CONSTRUCTORS = ('DefaultOptimWrapperConstructor', 'MergedOptimWrapperConstructor')


def methods() -> list[str]:
    """Names of the method configs for detectors' class logits."""
    names = [path.stem for path in (BASES / 'methods').glob('*.py')]
    return sorted(n for n in names if not n.endswith(('-classification', '-ld')))


def new_pair(
    teacher: str, student: str, method: str, out: str, teacher_ckpt: str | None = None
) -> list[str]:
    """Write the config of a pair, after all checks that need neither weights nor data.

    The config inherits the student's whole config (data, schedule, hooks) and the
    method's, and adds our hooks and training loop. The structure of the detectors
    decides the distiller, and for sigmoid classes of a dense head the method's
    ``-dense`` counterpart. Both models are built as a training builds them, and run on
    a blank image.

    Args:
        teacher: A config's path, ``mmdet::...`` path, or name in MMDetection's zoo.
        student: Likewise.
        method: One of :func:`methods`.
        out: Where to write; must not exist.
        teacher_ckpt: Path or URL; None takes the model zoo's.

    Returns:
        What was found, a line each.

    Raises:
        ValueError: If there is no such config, method or checkpoint; if the two are
            no pair, or the student's config cannot train under a distiller.
    """
    path = Path(out)
    _check_paths(path, teacher_ckpt)
    teacher, student = find_config(teacher), find_config(student)
    cfg_T, cfg_S = load_config(teacher), load_config(student)
    kind = _common_kind(cfg_S, cfg_T)
    _check_student(cfg_S)
    with DefaultScope.overwrite_default_scope('mmdet'):
        classes = check_class_names(
            dict(teacher=_classes(cfg_T), student=_classes(cfg_S)), {}
        )
        method = _fitting_method(method, kind, cfg_S)
        text = render(
            student=student,
            student_cfg=cfg_S,
            teacher=teacher,
            teacher_ckpt=teacher_ckpt or zoo_weights(teacher),
            method=method,
            distiller=DISTILLERS[kind],
            folder=path.parent,
        )
        report = [f'{DISTILLERS[kind]}, method {method}', classes]
        report += _build(text, path.parent) + _scales(cfg_S, cfg_T)
    with path.open('x') as file:
        file.write(text)
    return report


def _check_paths(out: Path, teacher_ckpt: str | None) -> None:
    if out.suffix != '.py':
        raise ValueError(f'{out} is no name of a config: it must end in .py')
    if out.exists():
        raise ValueError(f'{out} exists: give another name, or remove it first')
    if not out.parent.is_dir():
        raise ValueError(f'{out.parent} is no folder: make it first')
    local = teacher_ckpt is not None and '://' not in teacher_ckpt
    if local and not Path(teacher_ckpt).is_file():
        raise ValueError(
            f'--teacher-ckpt {teacher_ckpt} is no file: give the path or URL of the '
            "teacher's weights"
        )


def _kind(key: str, cfg: Config) -> str:
    model = cfg.get('model')
    if not model:
        raise ValueError(f'{key} has no model: give the whole config of a detector')
    if 'teacher_ckpt' in model:  # MMDetection's own would fetch it when built
        raise ValueError(
            f'{key} is a {model.type} with model.teacher_ckpt, a distillation itself: '
            "give the detector's own config"
        )
    if 'roi_head' in model:
        return 'two-stage'
    if 'bbox_head' in model and not {'decoder', 'language_model'} & model.keys():
        return 'one-stage'
    raise ValueError(
        f'{key} is a {model.get("type")}: class logits of RoIs (a model with a '
        'roi_head), or of anchors or points (with a dense bbox_head), are what can be '
        'compared; queries are not'
    )


def _common_kind(student: Config, teacher: Config) -> str:
    kinds = _kind('student', student), _kind('teacher', teacher)
    if kinds[0] != kinds[1]:
        raise ValueError(
            f'student ({student.model.type}) is {kinds[0]}, teacher '
            f'({teacher.model.type}) is {kinds[1]}: RoIs of one and anchors or points '
            'of the other are not the same places; take two of a kind'
        )
    return kinds[0]


def _check_student(cfg: Config) -> None:
    """Look for what works for a detector alone, not under a distiller."""
    loop = (cfg.get('train_cfg') or {}).get('type')
    if bare(loop).replace('Resumable', '') not in LOOPS:
        raise ValueError(
            f'train_cfg.type={loop!r} of the student: expected one of {LOOPS}, which '
            'resume exactly here'
        )
    if cfg.get('load_from'):
        raise ValueError(
            f'load_from={cfg.load_from!r} of the student has the weights of a detector '
            'alone: in a copy of the config set load_from=None and '
            "model=dict(init_cfg=dict(type='Pretrained', checkpoint=...))"
        )
    constructor = cfg.get('optim_wrapper', {}).get('constructor')
    if constructor and bare(constructor) not in CONSTRUCTORS:
        raise ValueError(
            f'optim_wrapper.constructor={constructor!r} of the student knows the '
            "parameters by a detector's names, which begin with architecture. here: "
            'take the default one, with paramwise_cfg.custom_keys'
        )
    check_hook_names(bare(hook['type']) for hook in cfg.get('custom_hooks') or [])


def _fitting_method(method: str, kind: str, student: Config) -> str:
    from ctkd_mm.models.heads.classes import has_sigmoid
    from ctkd_mm.models.heads.dense_head import dense_head
    from ctkd_mm.models.teachers.load import build_detector

    known = methods()
    if not known:
        raise ValueError(f'{BASES}/methods is missing: work in a checkout of ctkd_mm')
    if method not in known:
        raise ValueError(f'--method {method} is none of {", ".join(known)}')
    dense = [name for name in known if name.endswith('-dense')]
    sigmoid = kind == 'one-stage' and has_sigmoid(
        dense_head('student', build_detector(student.model))
    )
    if sigmoid and f'{method}-dense' in dense:
        return f'{method}-dense'
    if sigmoid and method not in dense:
        raise ValueError(
            f'method {method} is a softmax over the classes, but those of the student '
            f'({student.model.type}) are sigmoids: take one of {", ".join(dense)}'
        )
    if method in dense and not sigmoid:
        raise ValueError(
            f'method {method} is for sigmoid classes, but those of the student '
            f'({student.model.type}) are a softmax: take {method[: -len("-dense")]}'
        )
    return method


def _build(text: str, folder: Path) -> list[str]:
    """Build and probe the pair from what will be written, in its place."""
    from ctkd_mm.registry import MODELS

    with NamedTemporaryFile('w', suffix='.py', dir=folder) as file:
        file.write(text)
        file.flush()
        cfg = Config.fromfile(file.name).model
    try:
        model = MODELS.build(cfg)
    except AssertionError as error:  # MMRazor's, of a recorder without its module
        raise ValueError(f'the method does not fit the pair: {error}') from error
    shared = model.data_preprocessor.shared
    pixels = 'the same for both' if shared else "each model's own"
    return [*model.check_heads(), f'pixels: {pixels}']


def _evaluated(cfg: Config) -> dict:
    return (cfg.get('val_dataloader') or {}).get('dataset') or {}


def _classes(cfg: Config) -> dict:
    from mmdet.registry import DATASETS

    dataset = _evaluated(cfg)
    names = (dataset.get('metainfo') or {}).get('classes')
    known = DATASETS.get(dataset['type']) if 'type' in dataset else None
    return dict(classes=names or getattr(known, 'METAINFO', {}).get('classes'))


def _scales(student: Config, teacher: Config) -> list[str]:
    """Warn of a teacher that will see images of another size than it was made for."""
    scales = []
    for cfg in (student, teacher):
        pipeline = _evaluated(cfg).get('pipeline', [])
        scales.append(next((t['scale'] for t in pipeline if 'scale' in t), None))
    if None in scales or scales[0] == scales[1]:
        return []
    return [
        f"note: the student's images are scaled to {scales[0]}, the teacher was made "
        f'for {scales[1]}. How good it is on them: default_hooks.preflight.expect_map'
    ]
