"""Table 3.3 of the thesis: average and maximum in spatial and temporal pooling.

python -m segjax.main --mode table --table configs/tables/std2p_table3_3.py --scale quick \\
    --workdir runs/std2p_poolings
... --scale paper --config.data.root=/data/nyu --override '^fcn$:init_from.path=FILE'

All rows are trained and tested with several frames, from the net of the hidden row `fcn`.
"""

from segjax.modes.table import (
    Claim,
    Row,
    Scale,
    Table,
    published_numbers,
    share_columns,
    small_scale,
)

FILE = 'configs/std2p.py:{scale}'
COLUMNS = {
    'pixel accuracy': 'pixel_accuracy',
    'class accuracy': 'class_accuracy',
    'mIoU': 'mIoU',
    'fwIoU': 'fwIoU',
}
"""{column: score}."""
PUBLISHED = {
    ('mean', 'mean'): (70.1, 53.8, 40.1, 55.7),
    ('mean', 'max'): (69.4, 51.0, 38.0, 54.4),
    ('max', 'mean'): (66.4, 45.4, 33.8, 49.6),
    ('max', 'max'): (64.9, 44.5, 32.1, 47.9),
}
"""{(spatial, temporal): numbers of COLUMNS}."""


def get_rows():
    """Returns the hidden row of the net alone, and a row for each pair of poolings."""
    rows = [Row('fcn', 'FCN', f'{FILE},system=fcn', hidden=True)]
    for (spatial, temporal), values in PUBLISHED.items():
        row = Row(
            f'{spatial}_{temporal}',
            f'{spatial} / {temporal}',
            f'{FILE},use=full,spatial={spatial},temporal={temporal}',
            published=published_numbers(COLUMNS, values),
            overrides=('frames.num_steps=0',),
            after='fcn',
        )
        rows.append(row)
    return tuple(rows)


def get_claims():
    """Returns the orderings of the table for mIoU."""
    return (
        Claim('averages over time are better', 'mIoU', 'mean_mean', 'mean_max'),
        Claim('averages over space are better', 'mIoU', 'mean_mean', 'max_mean'),
        Claim('space matters more than time', 'mIoU', 'mean_max', 'max_mean'),
        Claim('two averages are better than two maxima', 'mIoU', 'mean_mean', 'max_max'),
    )


def get_table():
    """Returns the table."""
    return Table(
        title='Spatio-temporal data-driven pooling: Table 3.3',
        source='He, thesis, Table 3.3 (NYUDv2, 40 classes)',
        columns=share_columns(COLUMNS),
        rows=get_rows(),
        scales={
            'quick': small_scale('quick', 'the procedural world `rooms`'),
            'paper': Scale('', seeds=(0,), note="The paper's setting. Its rows are one run each."),
        },
        notes='Spatial / temporal pooling. Nets see several frames in training and in the test.',
        claims=get_claims(),
    )
