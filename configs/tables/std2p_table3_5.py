"""Table 3.5 of the thesis: STD2P on NYUDv2 with 4 and with 13 classes.

python -m segjax.main --mode table --table configs/tables/std2p_table3_5.py --scale quick \\
    --workdir runs/std2p_classes
... --scale paper --config.data.root=/data/nyu \\
    --override '^fcn_4$:init_from.path=FILE' --override '^fcn_13$:init_from.path=FILE'

The hidden rows are the nets alone. At the scale of the paper they have no steps: they are given.
The thesis prints the numbers of 13 classes below the headings mIoU and fwIoU. Its text compares
them as pixel accuracy and class accuracy.
"""

from segjax.modes.table import (
    Claim,
    Literature,
    Row,
    Scale,
    Table,
    published_numbers,
    share_columns,
    small_scale,
)

FILE = 'configs/std2p.py:{scale}'
AFTER_FCN = ('frames.num_steps=0',)
CLASSES = ('4', '13')
"""Class maps of NYUDv2."""
COLUMNS = {'pixel accuracy': 'pixel_accuracy', 'class accuracy': 'class_accuracy'}
"""{column: score}."""
PUBLISHED = {
    'superpixel+': {'4': (82.7, 81.3), '13': (74.8, 67.0)},
    'full': {'4': (83.6, 82.5), '13': (75.8, 68.4)},
}
"""{row: {class map: numbers of COLUMNS}}."""
LITERATURE = {
    'Couprie et al. 2013': {'4': (64.5, 63.5), '13': (52.4, 36.2)},
    'Hermans et al. 2014': {'4': (69.0, 68.1), '13': (54.2, 48.0)},
    'Stückler et al. 2015': {'4': (70.6, 66.8)},
    'McCormac et al. 2016': {'13': (69.9, 63.6)},
    'Wang et al. 2014': {'4': (None, 65.3), '13': (None, 42.2)},
    'Wang et al. 2016': {'4': (None, 74.7), '13': (None, 52.7)},
    'Eigen and Fergus 2015': {'4': (83.2, 82.0), '13': (75.4, 66.9)},
}
"""Further methods of the table."""


def get_rows():
    """Returns the hidden nets alone, and two tests of the net that is trained with frames."""
    rows = []
    for classes in CLASSES:
        merged = f'data.class_map={classes}'
        fcn = f'fcn_{classes}'
        full = f'full_{classes}'
        rows.append(Row(fcn, 'FCN', f'{FILE},system=fcn', overrides=(merged,), hidden=True))
        tests = (
            (f'superpixel_plus_{classes}', 'superpixel+', 'use=full,test=superpixel', full),
            (full, 'full', 'use=full', ''),
        )
        for key, name, arguments, evaluates in tests:
            row = Row(
                key,
                name,
                f'{FILE},{arguments}',
                published=published_numbers(COLUMNS, PUBLISHED[name][classes]),
                overrides=(*AFTER_FCN, merged),
                labels={'classes': classes},
                after='' if evaluates else fcn,
                evaluates=evaluates,
            )
            rows.append(row)
    return tuple(rows)


def get_literature():
    """Returns the further methods, first with 4 classes."""
    entries = []
    for classes in CLASSES:
        for name, of_classes in LITERATURE.items():
            if classes in of_classes:
                labels = {'classes': classes}
                entries.append(
                    Literature(name, published_numbers(COLUMNS, of_classes[classes]), labels)
                )
    return tuple(entries)


def get_claims():
    """Returns the orderings of the table."""
    claims = []
    for classes in CLASSES:
        for column in COLUMNS:
            text = f'frames in the test raise {column} of {classes} classes'
            claims.append(Claim(text, column, f'full_{classes}', f'superpixel_plus_{classes}'))
    return tuple(claims)


def get_table():
    """Returns the table."""
    return Table(
        title='Spatio-temporal data-driven pooling: Table 3.5',
        source='He, thesis, Table 3.5 (NYUDv2, 4 and 13 classes)',
        columns=share_columns(COLUMNS),
        rows=get_rows(),
        scales={
            'quick': small_scale('quick', 'the procedural world `rooms`'),
            'paper': Scale('', seeds=(0,), note="The paper's setting. Its rows are one run each."),
        },
        notes='superpixel+: trained with several frames, tested with the target alone.',
        claims=get_claims(),
        literature=get_literature(),
    )
