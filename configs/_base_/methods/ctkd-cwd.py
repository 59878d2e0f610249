# Beside CTKD on the RoIs, CWD on the neck, with MMRazor's levels, temperature and
# weight for Faster R-CNN. The two have not been tuned together.
_base_ = './ctkd.py'
distiller = dict(
    student_recorders=dict(neck=dict(type='mmrazor.ModuleOutputs', source='neck')),
    teacher_recorders=dict(neck=dict(type='mmrazor.ModuleOutputs', source='neck')),
    distill_losses={
        f'loss_cwd_{level}': dict(
            type='mmrazor.ChannelWiseDivergence', tau=1, loss_weight=10
        )
        for level in range(5)
    },
    loss_forward_mappings={
        f'loss_cwd_{level}': dict(
            preds_S=dict(from_student=True, recorder='neck', data_idx=level),
            preds_T=dict(from_student=False, recorder='neck', data_idx=level),
        )
        for level in range(5)
    },
)
