from __future__ import annotations

import copy
import math
from contextlib import nullcontext

import pytest
import torch
from helpers.two_stage_detectors import as_list, narrow_two_stage
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ctkd_mm.models.algorithms.roi_logit_distill import RoILogitDistill
from ctkd_mm.models.heads.roi_head import check_roi_head
from ctkd_mm.registry import MODELS

CTKD = dict(type='ctkd_mm.CTKDLoss', temperature=dict(type='ctkd_mm.GlobalTemperature'))
DKD = dict(
    type='ctkd_mm.DKDLoss', temperature=dict(type='ctkd_mm.ConstantTemperature', tau=1)
)
# Student, its stage, teacher, its stage: each structure on either side.
PAIRS = [
    ('faster', 0, 'cascade_mask', 0),
    ('cascade', 1, 'faster', 0),
    ('faster', 0, 'c4', 0),
    ('faster', 0, 'double_head', 0),
    ('cascade_mask', 2, 'mask', 0),
    ('c4', 0, 'faster', 0),
    ('double_head', 0, 'cascade', 2),
    ('mask', 0, 'cascade_mask', 1),
]
# Structures, and what calls a student's modules more than once a step.
STUDENTS = [
    ('faster', 0),
    ('mask', 0),
    ('cascade', 2),
    ('cascade_mask', 2),
    ('double_head', 0),
    ('c4', 0),
    ('ohem', 0),
    ('pisa', 0),
    ('shared_extractor', 1),
]
BACKGROUND = 10


def detector_cfg(name: str) -> dict:
    if name != 'shared_extractor':
        return narrow_two_stage(name)
    # Masks are cut out by the extractor of the boxes.
    cfg = narrow_two_stage('cascade_mask')
    cfg.roi_head.mask_roi_extractor = None
    for stage in cfg.train_cfg.rcnn:
        stage.mask_size = 14
    return cfg


def build(student, teacher, loss_kd=CTKD) -> RoILogitDistill:
    """Build a pair of a name, or config, and a stage each."""
    torch.manual_seed(0)
    cfgs = [
        detector_cfg(name) if isinstance(name, str) else name
        for name, _ in (student, teacher)
    ]
    cfg = dict(
        type='ctkd_mm.RoILogitDistill',
        architecture=cfgs[0],
        teacher=ROOT_MODELS.build(cfgs[1]),
        student_stage=student[1],
        teacher_stage=teacher[1],
        loss_kd=loss_kd,
    )
    model = MODELS.build(copy.deepcopy(cfg))
    # Untrained heads nearly agree: logits and refined boxes as spread as trained.
    for detector in (model.student, model.teacher):
        for name, weight in detector.roi_head.bbox_head.named_parameters():
            if name.endswith('fc_cls.weight') or name.endswith('fc_reg.weight'):
                weight.data.normal_(std=0.3)
    return model.train()


def two_images() -> dict:
    """Two noise images of unlike sizes with 3 and 2 boxes and their masks."""
    generator = torch.Generator().manual_seed(0)
    data = dict(inputs=[], data_samples=[])
    for height, width, num_boxes in ((96, 96, 3), (80, 90, 2)):
        image = torch.randint(0, 256, (3, height, width), generator=generator)
        corners = torch.rand(num_boxes, 2, generator=generator) * 40
        sizes = torch.rand(num_boxes, 2, generator=generator) * 26 + 12
        boxes = torch.cat([corners, corners + sizes], 1)
        masks = torch.zeros(num_boxes, height, width, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
            mask[y1:y2, x1:x2] = 1
        shape = (height, width)
        sample = DetDataSample(
            metainfo=dict(img_shape=shape, ori_shape=shape, scale_factor=(1, 1))
        )
        sample.gt_instances = InstanceData(
            bboxes=boxes,
            labels=torch.randint(0, BACKGROUND, (num_boxes,), generator=generator),
            masks=BitmapMasks(masks.numpy(), height, width),
        )
        data['inputs'].append(image.to(torch.uint8))
        data['data_samples'].append(sample)
    return data


def overlaps(box: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of a box with each of the others."""
    upper_left = torch.maximum(box[:2], others[:, :2])
    sides = torch.minimum(box[2:], others[:, 2:]) - upper_left
    common = sides.clamp(min=0).prod(dim=1)
    areas = (others[:, 2:] - others[:, :2]).prod(dim=1)
    return common / ((box[2:] - box[:2]).prod() + areas - common)


def pick(modules, stage: int):
    """What belongs to a stage."""
    is_list = isinstance(modules, (list, nn.ModuleList))
    return modules[stage] if is_list else modules


def spy(model: RoILogitDistill) -> tuple[dict, dict]:
    """Keep the RoIs that each stage's sampler chooses, and what loss_kd gets."""
    chosen, given = {}, {}
    samplers = as_list(model.student.roi_head.bbox_sampler)
    for stage, sampler in enumerate(samplers):

        def sample(*args, stage=stage, original=sampler.sample, **kwargs):
            result = original(*args, **kwargs)
            found = result[0] if isinstance(result, tuple) else result
            image = len(chosen.setdefault(stage, []))
            boxes = torch.cat([found.pos_priors, found.neg_priors]).detach()
            chosen[stage].append(nn.functional.pad(boxes, (1, 0), value=image))
            return result

        sampler.sample = sample
    model.distiller.distill_losses.loss_kd.register_forward_pre_hook(
        lambda module, args, kwargs: given.update(kwargs), with_kwargs=True
    )
    return chosen, given


def step(model: RoILogitDistill, data: dict) -> dict:
    prepared = model.data_preprocessor(copy.deepcopy(data), training=True)
    return model(**prepared, mode='loss')


@torch.no_grad()
def scored_alone(detector, images: list[Tensor], rois: Tensor, stage: int) -> Tensor:
    """Class logits of each RoI by itself, of an image by itself."""
    detector.eval()
    head, rows = detector.roi_head, []
    extract, box_head = (
        pick(modules, stage) for modules in (head.bbox_roi_extractor, head.bbox_head)
    )
    # Padded to one size, for the levels to be those of the batch.
    samples = dict(inputs=images, data_samples=None)
    pixels = detector.data_preprocessor(samples)['inputs']
    for i, image in enumerate(pixels):
        feats = detector.extract_feat(image[None])
        for roi in rois[rois[:, 0] == i]:
            alone = torch.cat([roi.new_zeros(1), roi[1:]])[None]
            crop = extract(feats[: extract.num_inputs], alone)
            if head.with_shared_head:
                crop = head.shared_head(crop)
            double = type(box_head).__name__ == 'DoubleConvFCBBoxHead'
            rows.append(box_head(*[crop] * (1 + double))[0])
    return torch.cat(rows)


@pytest.fixture(scope='module', params=PAIRS, ids=lambda pair: '-'.join(map(str, pair)))
def seen(request) -> dict:
    """What a step of a pair computed."""
    init_default_scope('mmdet')
    student, stage_S, teacher, stage_T = request.param
    model, data = build((student, stage_S), (teacher, stage_T)), two_images()
    chosen, given = spy(model)
    losses = step(model, data)
    model.parse_losses(losses)[0].backward()
    return dict(
        model=model,
        stages=dict(student=stage_S, teacher=stage_T),
        images=data['inputs'],
        rois=torch.cat(chosen[stage_S]),
        given=given,
        loss=losses['distill.loss_kd'].item(),
    )


@pytest.mark.parametrize('key', ['student', 'teacher'])
def test_row_i_is_the_ith_roi_that_the_students_sampler_chose(seen, key):
    preds = seen['given'][f'preds_{key[0].upper()}'].detach()
    detector, stage = getattr(seen['model'], key), seen['stages'][key]
    want = scored_alone(detector, seen['images'], seen['rois'], stage)
    # One by one, some processors' convolutions round another way, by 3e-5.
    torch.testing.assert_close(preds, want, rtol=1e-4, atol=1e-4)
    # No neighbour could stand in for a row.
    assert (want - want.roll(1, 0)).abs().amax(dim=1).min() > 1e-3


def test_the_loss_is_the_kl_of_these_rows(seen):
    tau = 1 + 20 / (1 + math.exp(-1))
    z_S, z_T = (seen['given'][k].detach().double() for k in ('preds_S', 'preds_T'))
    p_S, p_T = (torch.exp(z / tau) for z in (z_S, z_T))
    p_S, p_T = (p / p.sum(1, keepdim=True) for p in (p_S, p_T))
    want = tau**2 * (p_T * (p_T / p_S).log()).sum() / len(seen['rois'])
    assert want > 0.01
    assert seen['loss'] == pytest.approx(want.item(), rel=1e-4)


def test_every_trainable_parameter_gets_a_gradient(seen):
    weights = seen['model'].named_parameters()
    assert not [name for name, p in weights if p.requires_grad and p.grad is None]


def test_the_pair_passes_the_check_before_training(seen):
    lines = seen['model'].check_heads()
    assert [line.split(':')[0] for line in lines] == ['architecture', 'teacher']
    assert all('11 logits each' in line for line in lines)


@pytest.mark.parametrize('student, stage', STUDENTS)
def test_labels_are_those_of_the_boxes_that_the_rois_overlap(student, stage):
    model, data = build((student, stage), ('faster', 0), DKD), two_images()
    chosen, given = spy(model)
    step(model, data)
    rois = torch.cat(chosen[stage])
    assigner = pick(model.student.roi_head.bbox_assigner, stage)
    want = []
    for roi in rois:
        truth = data['data_samples'][int(roi[0])].gt_instances
        overlap, nearest = overlaps(roi[1:], truth.bboxes).max(dim=0, keepdim=True)
        inside = overlap >= assigner.pos_iou_thr
        want.append(truth.labels[nearest] if inside else torch.tensor([BACKGROUND]))
    assert torch.equal(given['labels'], torch.cat(want))
    background = given['labels'] == BACKGROUND
    assert 5 <= (~background).sum() < len(rois)  # the boxes themselves are RoIs


@pytest.mark.parametrize('student, stage', STUDENTS[-3:])
def test_the_student_learns_from_the_rois_of_its_last_pass(student, stage):
    model, data = build((student, stage), ('faster', 0)), two_images()
    chosen, given = spy(model)
    step(model, data)['distill.loss_kd'].backward()
    rois = torch.cat(chosen[stage])
    want = scored_alone(model.teacher, data['inputs'], rois, 0)
    torch.testing.assert_close(given['preds_T'], want, rtol=1e-4, atol=1e-5)
    head = pick(model.student.roi_head.bbox_head, stage)
    assert head.fc_cls.weight.grad.abs().max() > 0


def test_a_later_stage_gets_the_refined_rois_of_the_stage_before():
    data = two_images()
    for stage in (0, 1):
        model = build(('cascade', stage), ('faster', 0))
        chosen, given = spy(model)
        torch.manual_seed(0)
        step(model, data)
        first, second = torch.cat(chosen[0]), torch.cat(chosen[1])
        want = scored_alone(model.teacher, data['inputs'], (first, second)[stage], 0)
        torch.testing.assert_close(given['preds_T'], want, rtol=1e-4, atol=1e-5)
        # But for the true boxes, each is another one.
        kept = (first[:, None] == second).all(dim=2).any(dim=1)
        assert kept.sum() <= 5


@pytest.mark.parametrize(
    # MMDetection's Double-Head and PISA students need RoIs themselves.
    'student, stage',
    [pair for pair in STUDENTS if pair[0] not in ('double_head', 'pisa')],
)
def test_a_step_without_any_roi_has_a_zero_loss(student, stage):
    cfg = detector_cfg(student)
    for rcnn in as_list(cfg.train_cfg.rcnn):
        rcnn.sampler.update(num=0, add_gt_as_proposals=False)
    # Nor can a Double-Head teacher score none.
    model = build((cfg, stage), ('double_head', 0), DKD)
    losses = step(model, two_images())
    assert losses['distill.loss_kd'] == 0
    model.parse_losses(losses)[0].backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert not [n for n, p in trained.items() if p.grad is None]  # DDP waits for all


def test_ddp_needs_no_unused_parameters_for_the_last_stage(one_process_group):
    model = build(('cascade_mask', 2), ('double_head', 0))
    wrapped = MMDistributedDataParallel(model, find_unused_parameters=False)
    for _ in range(2):
        prepared = model.data_preprocessor(two_images(), training=True)
        # The second forward raises if a parameter had no gradient in the first.
        losses = wrapped(**prepared, mode='loss')
        model.parse_losses(losses)[0].backward()


@pytest.mark.parametrize(
    'student, teacher, message',
    [
        (
            ('faster', 1),
            ('faster', 0),
            'model.student_stage=1, but architecture (FasterRCNN) has 1 box head(s): '
            'give one of [0]',
        ),
        (
            ('cascade', 3),
            ('faster', 0),
            'model.student_stage=3, but architecture (CascadeRCNN) has 3 box head(s): '
            'give one of [0, 1, 2]',
        ),
        (
            ('faster', 0),
            ('cascade_mask', -1),
            'model.teacher_stage=-1, but teacher (CascadeRCNN) has 3 box head(s): '
            'give one of [0, 1, 2]',
        ),
    ],
)
def test_a_stage_that_is_not_there_is_refused_by_name(student, teacher, message):
    with pytest.raises(ValueError) as error:
        build(student, teacher)
    assert str(error.value) == message


@pytest.mark.parametrize(
    'path, found',
    [
        ('htc/htc_r50_fpn_1x_coco.py', "HybridTaskCascadeRoIHead.*'semantic_feat'"),
        ('scnet/scnet_r50_fpn_1x_coco.py', "SCNetRoIHead.*'glbctx_feat'"),
        ('sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py', "SparseRoIHead.*'object_feats'"),
    ],
)
def test_boxes_scored_by_more_than_features_are_refused_by_name(
    student_cfg, path, found
):
    cfg = dict(type='ctkd_mm.RoILogitDistill', loss_kd=CTKD, architecture=student_cfg)
    with pytest.raises(ValueError, match=rf'teacher.roi_head \({found}'):
        MODELS.build(dict(cfg, teacher=f'mmdet::{path}'))


def test_a_student_that_multiplies_the_batch_is_refused_with_both_numbers():
    cfg = narrow_two_stage('c4')
    cfg.roi_head.update(type='TridentRoIHead', num_branch=3, test_branch_idx=1)
    cfg.update(type='TridentFasterRCNN')
    cfg.backbone.update(
        type='TridentResNet',
        depth=50,
        trident_dilations=(1, 2, 3),
        num_branch=3,
        test_branch_idx=1,
    )
    cfg.rpn_head.update(in_channels=1024)
    cfg.roi_head.shared_head.update(depth=50)
    cfg.roi_head.bbox_roi_extractor.update(out_channels=1024)
    cfg.roi_head.bbox_head.update(in_channels=2048)
    model = build((cfg, 0), ('faster', 0))
    with pytest.raises(RuntimeError, match='RoIs of 6 images for a batch of 2'):
        step(model, two_images())


def test_levels_of_another_stride_are_refused_with_both():
    cfg = narrow_two_stage('faster')
    cfg.roi_head.bbox_roi_extractor.featmap_strides = [8, 16, 32, 64]
    message = r'featmap_strides=\[8, 16, 32, 64\], .* strides \[4, 8, 16, 32\]'
    with pytest.raises(ValueError, match='architecture.roi_head.*' + message):
        check_roi_head('architecture', ROOT_MODELS.build(cfg))


def test_other_columns_than_the_classes_are_refused_with_both():
    model = ROOT_MODELS.build(narrow_two_stage('faster'))
    model.roi_head.bbox_head.fc_cls = nn.Linear(32, 5)
    with pytest.raises(
        ValueError, match=r'of \(1, 5\) for one RoI, expected \(1, 11\)'
    ):
        check_roi_head('teacher', model)


@pytest.mark.parametrize('sound', [True, False])
def test_the_probe_changes_nothing_also_where_it_refuses(sound):
    cfg = narrow_two_stage('faster')
    cfg.backbone.norm_eval = False
    model = ROOT_MODELS.build(cfg).train()
    if not sound:
        model.roi_head.bbox_head.fc_cls = nn.Linear(32, 5)
    before = copy.deepcopy(model.state_dict())
    with nullcontext() if sound else pytest.raises(ValueError):
        line = check_roi_head('teacher', model)
        assert (
            line
            == 'teacher: RoIs from levels of strides [4, 8, 16, 32], 11 logits each'
        )
    assert model.training and model.backbone.bn1.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
