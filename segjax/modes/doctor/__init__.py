"""`--mode doctor`: finds everything that is wrong with a data set and its config, before training.

Every file is read as preparing the data reads it, but reading continues after a problem. A finding
is an error if a run would refuse it later (segjax/train/checks.py). The exit code is then 1. A
warning does not stop training.
"""

from segjax.modes.doctor.examined import data_spec
from segjax.modes.doctor.findings import Diagnosis, Finding, SplitSummary
from segjax.modes.doctor.reading import read_splits
from segjax.modes.doctor.run import diagnose, examine, main
from segjax.modes.doctor.text import SHOWN, report

__all__ = [
    'SHOWN',
    'Diagnosis',
    'Finding',
    'SplitSummary',
    'data_spec',
    'diagnose',
    'examine',
    'main',
    'read_splits',
    'report',
]
