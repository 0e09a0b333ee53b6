"""A table of three rows and the scores of its runs, for the tests of segjax/modes/table."""

from segjax.modes.table import make_table_plan, run_table
from segjax.train import divergence

# Rows 'base', 'thin' and 'strong' of a supervised run. The claims: strong is better than base, thin
# is worse.
FILE = """
from segjax.modes.table import Claim, Column, Literature, Row, Scale, Table


def get_table():
    rows = (
        Row('base', 'as published', 'configs/supervised.py:{scale}', {'mIoU': 40.2}),
        Row('thin', 'half | as wide', 'configs/supervised.py:{scale}', {'mIoU': 38, 'error': 0.5},
            overrides=('model.width=0.5',), labels={'width': '1/2'}),
        Row('strong', 'strong <aug>',
            'configs/supervised.py:{scale},augment=strong', {'mIoU': 43.3}),
    )
    return Table(
        title='A table',
        source='A paper, Table 2',
        columns=(
            Column('mIoU', 'mIoU', unit='%', factor=100.0, better='max'),
            Column('error', 'depth/near/error', better='min', digits=2),
        ),
        rows=rows,
        scales={
            'quick': Scale('smoke', (0, 1, 2), note='tiny'),
            'paper': Scale('', (0,), ('train.batch_size=16',)),
        },
        notes='Some notes.',
        compare=('strong', 'base'),
        claims=(
            Claim('augmentation helps', 'mIoU', 'strong', 'base'),
            Claim('width helps', 'mIoU', 'base', 'thin'),
            Claim('thin errs more', 'error', 'thin', 'base'),
        ),
        literature=(Literature('an older net', {'mIoU': 30.5}, {'width': '2'}),),
    )
"""


def run_scores(miou, error=None, **classes):
    """Returns the scores of a run with two stages, of which the last counts."""
    return {
        'first': {'mIoU': 0.99},
        'last': {'mIoU': miou, 'depth': {'near': {'error': error}}, 'IoU': classes},
    }


RESULTS = {
    ('base', 0): run_scores(0.40, 0.5, road=0.5, car=None),
    ('base', 1): run_scores(0.42, 0.25, road=0.75, car=None),
    ('base', 2): run_scores(0.44, 0.75, road=1.0, car=None),
    ('thin', 0): run_scores(0.40),
    ('thin', 1): run_scores(0.43),
    ('thin', 2): divergence.Diverged("stage 'last', step 7: the loss is nan\n  got: ..."),
    ('strong', 0): run_scores(0.45, road=0.25, car=0.125),
    ('strong', 1): run_scores(0.46, road=0.25, car=0.125),
    ('strong', 2): run_scores(0.44, road=0.25, car=0.125),
}

ENVIRONMENT = {
    'device': 'abacus',
    'devices': 2,
    'processes': 1,
    'host cores': 8,
    'python': '3.11',
    'jax': '0.1',
}


def start(path, workdir='runs', **kwargs):
    run_table(make_table_plan(str(path), kwargs.pop('scale', 'quick'), str(workdir), **kwargs))


def runs(calls):
    return [call for call in calls if call != 'cleared']
