"""Figures 6.3 and 6.6 of He's thesis: the share of synthetic features, and hard negative mining.

python -m segjax.main --mode table --table configs/tables/dense_features_figures.py \\
    --scale quick --workdir runs/figure6_3
... --scale paper --config.data.root=/data/cityscapes   PSPNet-101 on Cityscapes
    --override 'baseline:init_from.path=pspnet101_cityscapes.pth'

The rows of the shares have random layouts. The row `mined` has the share 0.3, as the rows of the
tables. The thesis prints curves over the iterations and no numbers. metrics.jsonl of each run has
its curve: --config.logging.eval_every=500.
"""

from segjax.modes.table import STREETS, Claim, Row, Scale, Table, share_columns, small_scale

FILE = 'configs/dense_features.py:{scale}'
BASELINE = 'baseline'
GENERATOR = 'generator'
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
RANDOM = 'share_30'
"""The row that `mined` is compared with."""


def get_rows():
    """Returns the baseline, the hidden generator, and the rows of both figures."""
    rows = [
        Row(BASELINE, 'Baseline', f'{FILE},stages=segmentation'),
        Row(GENERATOR, 'generator', f'{FILE},stages=features', after=BASELINE, hidden=True),
        Row(
            'share_0',
            'Further steps on real images',
            f'{FILE},stages=refit,source=none',
            after=BASELINE,
        ),
    ]
    for share in SHARES:
        percent = round(100 * share)
        rows.append(
            Row(
                f'share_{percent}',
                f'{percent} % synthetic',
                f'{FILE},stages=refit,mining=false,share={share}',
                after=GENERATOR,
            )
        )
    mined = f'{FILE},stages=refit,mining=true'
    rows.append(Row('mined', '30 % synthetic, mined', mined, after=GENERATOR))
    return tuple(rows)


def get_claims():
    """Returns what the figures show."""
    return (
        Claim('more synthetic features raise ClassAcc', 'ClassAcc', 'share_50', 'share_10'),
        Claim('synthetic features raise mIoU', 'mIoU', RANDOM, BASELINE),
        Claim('mining raises ClassAcc', 'ClassAcc', 'mined', RANDOM),
        Claim('mining raises mIoU', 'mIoU', 'mined', RANDOM),
    )


def get_table():
    """Returns the table."""
    return Table(
        title='Synthetic dense features: Figures 6.3 and 6.6',
        source='He, thesis, Figs. 6.3 and 6.6 (Cityscapes val)',
        columns=share_columns({'ClassAcc': 'class_accuracy', 'mIoU': 'mIoU'}, digits=2),
        rows=get_rows(),
        scales={
            'quick': small_scale('quick', STREETS),
            'paper': Scale('', (0,), note="The thesis' setting, one run each."),
        },
        claims=get_claims(),
    )
