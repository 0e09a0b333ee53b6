"""Table 6.5 of He's thesis: synthetic features on ADE20K.

python -m segjax.main --mode table --table configs/tables/dense_features_table6_5.py \\
    --scale paper --config.data.root=/data/ADE20K --workdir runs/table6_5 \\
    --override 'baseline:init_from.path=pspnet50_ade20k.pth'

The evaluation has a single scale. The published numbers of several scales are quoted. The scale
quick of Table 6.1 has the same rows.
"""

from segjax.modes.table import (
    SEGMENTATION_SCORES,
    Claim,
    Row,
    Scale,
    Table,
    literature,
    share_columns,
    with_published,
)

FILE = 'configs/dense_features.py:{scale}'
BASELINE = 'baseline'
GENERATOR = 'generator'
PUBLISHED = {
    BASELINE: (80.04, 51.75, 41.68, 67.46),
    'ours': (80.00, 53.83, 42.02, 68.19),
}
"""{row: numbers of SEGMENTATION_SCORES} at a single scale."""
SEVERAL_SCALES = {
    'Baseline, several scales': (80.76, 52.27, 42.78, 68.75),
    'Ours, several scales': (80.81, 54.70, 43.35, 69.17),
}


def get_rows():
    """Returns the baseline, the hidden generator, the control, and our features."""
    rows = (
        Row(BASELINE, 'Baseline', f'{FILE},stages=segmentation'),
        Row(GENERATOR, 'generator', f'{FILE},stages=features', after=BASELINE, hidden=True),
        Row(
            'steps',
            'Further steps on real images',
            f'{FILE},stages=refit,source=none',
            after=BASELINE,
        ),
        Row('ours', 'Ours', f'{FILE},stages=refit', after=GENERATOR),
    )
    return with_published(rows, SEGMENTATION_SCORES, PUBLISHED)


def get_table():
    """Returns the table."""
    return Table(
        title='Synthetic dense features: Table 6.5',
        source='He, thesis, Table 6.5 (ADE20K val)',
        columns=share_columns(SEGMENTATION_SCORES, digits=2),
        rows=get_rows(),
        scales={'paper': Scale('ade20k', (0,), note="The thesis' setting, one run each.")},
        claims=(
            Claim('synthetic features raise ClassAcc', 'ClassAcc', 'ours', BASELINE),
            Claim('synthetic features raise mIoU', 'mIoU', 'ours', BASELINE),
        ),
        literature=literature(SEGMENTATION_SCORES, SEVERAL_SCALES),
    )
