"""Reads, judges and compares runs, and suggests temperatures."""

from ctkd_mm.utils.lazy import face

__getattr__, __all__ = face(
    __name__,
    **{
        'doctor.diagnose': 'diagnose diagnose_run',
        'doctor.doctor_hook': 'TemperatureDoctorHook',
        'figures': 'plot_curriculum',
        'report.page': 'write_report',
        'run_log': 'read_config read_metrics read_scalars',
        'suggest.suggest': 'suggest_temperature',
    },
)
