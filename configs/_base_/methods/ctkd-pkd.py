# Beside CTKD on the RoIs, PKD on the neck, with MMRazor's levels and weight for
# Faster R-CNN. The two have not been tuned together.
_base_ = './ctkd.py'
distiller = dict(
    student_recorders=dict(neck=dict(type='mmrazor.ModuleOutputs', source='neck')),
    teacher_recorders=dict(neck=dict(type='mmrazor.ModuleOutputs', source='neck')),
    distill_losses={
        f'loss_pkd_{level}': dict(type='mmrazor.PKDLoss', loss_weight=6)
        for level in range(4)
    },
    loss_forward_mappings={
        f'loss_pkd_{level}': dict(
            preds_S=dict(from_student=True, recorder='neck', data_idx=level),
            preds_T=dict(from_student=False, recorder='neck', data_idx=level),
        )
        for level in range(4)
    },
)
