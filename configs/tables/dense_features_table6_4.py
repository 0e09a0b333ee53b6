"""Table 6.4 of He's thesis: layouts from further sources.

python -m segjax.main --mode table --table configs/tables/dense_features_table6_4.py \\
    --scale quick --workdir runs/table6_4
... --scale camvid_quick --config.data.root=/data/camvid
                              CamVid at 120x160: about half an hour a seed on a core
... --scale paper --config.data.root=/data/cityscapes   PSPNet-101 on Cityscapes
    --override 'baseline:init_from.path=pspnet101_cityscapes.pth'
    --override 'synscapes:layout_data.root=/data/synscapes'
    --override 'pseudo:layout_data.root=/data/cityscapes'

All rows of a seed begin from the net of the row `baseline` and share a generator. At the scale
quick, the row `synscapes` has layouts of another world, whose streets are drawn alike. At the scale
camvid_quick, it has layouts of a fifth of the training images, which no net has learned from. The
row `pseudo` has predictions on the images of `synscapes`. The row `steps` refits with real images
alone: further steps alone may move the scores.

The evaluation has a single scale. The published numbers of several scales are quoted.
"""

from segjax.modes.table import (
    SEGMENTATION_SCORES,
    STREETS,
    Claim,
    Row,
    Scale,
    Table,
    literature,
    share_columns,
    small_scale,
    with_published,
)

FILE = 'configs/dense_features.py:{scale}'
BASELINE = 'baseline'
GENERATOR = 'generator'
PUBLISHED = {
    BASELINE: (96.34, 86.34, 79.73, 93.15),
    'train': (96.40, 87.29, 80.30, 93.27),
    'val': (96.40, 87.47, 80.33, 93.29),
    'synscapes': (96.39, 87.55, 80.03, 93.27),
    'pseudo': (96.40, 87.49, 80.31, 93.28),
}
"""{row: numbers of SEGMENTATION_SCORES} at a single scale."""
SEVERAL_SCALES = {
    'Baseline, several scales': (96.59, 87.23, 80.89, 93.58),
    'Ours, several scales': (96.64, 88.16, 81.48, 93.69),
    'Ours with Val, several scales': (96.64, 88.46, 81.52, 93.71),
    'Ours with Synscapes, several scales': (96.64, 88.43, 81.34, 93.70),
    'Ours with pseudo labels, several scales': (96.64, 88.34, 81.51, 93.70),
}
ROWS = {
    'train': ('Ours', 'train'),
    'val': ('Ours with Val', 'val'),
    'synscapes': ('Ours with Synscapes', 'other'),
    'pseudo': ('Ours with pseudo labels', 'pseudo'),
}
"""{row: (name, value of layouts=)}."""


def get_rows():
    """Returns the baseline, the hidden generator, the control, and a row for each source."""
    rows = [
        Row(BASELINE, 'Baseline', f'{FILE},stages=segmentation'),
        Row(GENERATOR, 'generator', f'{FILE},stages=features', after=BASELINE, hidden=True),
    ]
    steps = f'{FILE},stages=refit,source=none'
    rows.append(Row('steps', 'Further steps on real images', steps, after=BASELINE))
    for key, (name, layouts) in ROWS.items():
        config = f'{FILE},stages=refit,layouts={layouts}'
        rows.append(Row(key, name, config, after=GENERATOR))
    return with_published(rows, SEGMENTATION_SCORES, PUBLISHED)


def get_claims():
    """Returns the orderings of Table 6.4."""
    return (
        Claim('synthetic features raise mIoU', 'mIoU', 'train', BASELINE),
        Claim('they raise it more than further steps', 'mIoU', 'train', 'steps'),
        Claim('layouts of val raise mIoU', 'mIoU', 'val', 'train'),
        Claim('pseudo labels raise mIoU', 'mIoU', 'pseudo', 'train'),
        Claim('layouts of another distribution lower mIoU', 'mIoU', 'train', 'synscapes'),
        Claim('layouts of another distribution raise ClassAcc', 'ClassAcc', 'synscapes', 'train'),
    )


def get_table():
    """Returns the table."""
    return Table(
        title='Synthetic dense features: Table 6.4',
        source='He, thesis, Table 6.4 (Cityscapes val)',
        columns=share_columns(SEGMENTATION_SCORES, digits=2),
        rows=get_rows(),
        scales={
            'quick': small_scale('quick', STREETS),
            'camvid_quick': small_scale('camvid_quick', 'CamVid at 120x160'),
            'paper': Scale('', (0,), note="The thesis' setting, one run each."),
        },
        notes='A quarter of the layouts of each batch comes from the further source.',
        claims=get_claims(),
        literature=literature(SEGMENTATION_SCORES, SEVERAL_SCALES),
    )
