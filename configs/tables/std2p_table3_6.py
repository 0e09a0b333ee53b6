"""Table 3.6 of the thesis: nets of NYUDv2 on the 65 labelled frames of SUN3D, with 33 classes.

python -m segjax.main --mode table --table configs/tables/std2p_table3_6.py --scale paper \\
    --workdir runs/std2p_sun3d --config.data.root=/data/nyu \\
    --override '^fcn$:init_from.path=FILE' --override '^sun3d:data.root=/data/sun3d'

The hidden rows are trained on NYUDv2 with 40 classes. Predictions and labels are merged into the 33
classes, whose list is not published (docs/data.md).

A depth scale of NYUDv2 on the command line holds for all rows. SUN3D has its own unit:
    --override '^sun3d:data.rgbd.depth_scale=0'
"""

from segjax.modes.table import (
    Claim,
    Row,
    Scale,
    Table,
    literature,
    share_columns,
    with_published,
)

FILE = 'configs/std2p.py:{scale}'
COLUMNS = ('pixel accuracy', 'class accuracy', 'mIoU', 'fwIoU')
SUN3D = (
    'data.name=sun3d',
    'data.train_split=test',
    'data.eval_split=test',
    'data.rgbd.depth_scale=0',
    'testing.merge=33',
)
"""Overrides of rows that evaluate on SUN3D, whose only split is `test`."""
PUBLISHED = {
    'sun3d_fcn': (58.8, 38.5, 26.1, 43.9),
    'sun3d_superpixel_plus': (62.5, 40.8, 29.4, 47.8),
    'sun3d_full': (65.5, 41.2, 32.9, 51.5),
}
"""{row: numbers of COLUMNS}."""
LITERATURE = {
    'Deng et al. 2015': (65.7, None, 28.2, 51.0),
    'Zheng et al. 2015, CRF-RNN': (59.8, None, 25.5, 43.3),
    'Chen et al. 2014, DeepLab': (60.9, 30.7, 24.0, 44.1),
    'Chen et al. 2018, DeepLab-LFOV': (62.3, 35.3, 28.2, 46.2),
    'Gadde et al. 2016, BI(1000)': (53.8, 31.1, 20.8, 37.1),
    'Gadde et al. 2016, BI(3000)': (53.9, 31.6, 21.1, 37.4),
    'Caesar et al. 2016, E2S2': (56.7, 47.7, 27.2, 43.3),
}
"""Further methods of the table."""


def get_rows():
    """Returns the hidden trainings on NYUDv2, and their tests on SUN3D."""
    full = Row(
        'full',
        'full',
        f'{FILE},use=full',
        overrides=('frames.num_steps=0',),
        after='fcn',
        hidden=True,
    )
    tests = (
        ('sun3d_fcn', 'FCN', 'system=fcn', 'fcn'),
        ('sun3d_superpixel_plus', 'superpixel+', 'use=full,test=superpixel', 'full'),
        ('sun3d_full', 'full', 'use=full', 'full'),
    )
    rows = [Row('fcn', 'FCN', f'{FILE},system=fcn', hidden=True), full]
    for key, name, arguments, evaluates in tests:
        row = Row(
            key,
            name,
            f'{FILE},{arguments}',
            overrides=SUN3D if evaluates == 'fcn' else ('frames.num_steps=0', *SUN3D),
            evaluates=evaluates,
        )
        rows.append(row)
    return with_published(rows, COLUMNS, PUBLISHED)


def get_table():
    """Returns the table."""
    scores = ('pixel_accuracy', 'class_accuracy', 'mIoU', 'fwIoU')
    places = {column: f'merged/{score}' for column, score in zip(COLUMNS, scores, strict=True)}
    claims = (
        Claim('superpixels raise mIoU', 'mIoU', 'sun3d_superpixel_plus', 'sun3d_fcn'),
        Claim('frames raise mIoU', 'mIoU', 'sun3d_full', 'sun3d_superpixel_plus'),
    )
    return Table(
        title='Spatio-temporal data-driven pooling: Table 3.6',
        source='He, thesis, Table 3.6 (SUN3D, 33 classes)',
        columns=share_columns(places),
        rows=get_rows(),
        scales={
            'paper': Scale('', seeds=(0,), note="The paper's setting. Its rows are one run each."),
        },
        notes='Nets are trained on NYUDv2. Predictions of 40 classes are merged into 33.',
        claims=claims,
        literature=literature(COLUMNS, LITERATURE),
    )
