# Class logits of both classifiers for the same images: row i is image i.
distiller = dict(
    type='mmrazor.ConfigurableDistiller',
    student_recorders=dict(logits=dict(type='mmrazor.ModuleOutputs', source='head.fc')),
    teacher_recorders=dict(logits=dict(type='mmrazor.ModuleOutputs', source='head.fc')),
    loss_forward_mappings=dict(
        loss_kd=dict(
            preds_S=dict(from_student=True, recorder='logits'),
            preds_T=dict(from_student=False, recorder='logits'),
        )
    ),
)
