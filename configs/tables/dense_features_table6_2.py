"""Table 6.2 of He's thesis: two architectures of the generator of features.

python -m segjax.main --mode table --table configs/tables/dense_features_table6_2.py \\
    --scale quick --workdir runs/table6_2
... --scale camvid_quick --config.data.root=/data/camvid
                              CamVid at 120x160
... --scale paper --config.data.root=/data/cityscapes   PSPNet-101 on Cityscapes
    --override 'baseline:init_from.path=pspnet101_cityscapes.pth'

Rows with `score` show the "PSPNet-score": synthetic features of the evaluation layouts, segmented
by the net of the row `baseline`. The thesis measures it on 3,000 patches of the training images.
Rows with `refit` show the net that was refitted with these features. Their published numbers are
the baseline and the published improvement.
"""

from segjax.modes.table import (
    SEGMENTATION_SCORES,
    STREETS,
    Claim,
    Column,
    Row,
    Scale,
    Table,
    share_columns,
    small_scale,
    with_published,
)

FILE = 'configs/dense_features.py:{scale}'
BASELINE = 'baseline'
PUBLISHED = {
    BASELINE: (96.34, 86.34, 79.73, 93.15),
    'score_resize': (93.82, 66.85, 63.40, 88.63),
    'score_atrous': (96.44, 80.05, 74.33, 93.44),
    'refit_resize': (96.34, 87.78, 79.21, 93.19),
    'refit_atrous': (96.40, 87.51, 80.28, 93.28),
}
"""{row: numbers of SEGMENTATION_SCORES}."""
GENERATORS = {'resize': 'layout shrunk first', 'atrous': 'atrous pooling (ours)'}


def get_rows():
    """Returns the baseline, and two rows for each generator."""
    rows = [Row(BASELINE, 'Baseline', f'{FILE},stages=segmentation')]
    for generator, name in GENERATORS.items():
        score = f'score_{generator}'
        config = f'{FILE},generator={generator},mining=false'
        rows += [
            Row(score, f'PSPNet-score, {name}', f'{config},stages=features', after=BASELINE),
            Row(f'refit_{generator}', f'Refit, {name}', f'{config},stages=refit', after=score),
        ]
    return with_published(rows, SEGMENTATION_SCORES, PUBLISHED)


def get_claims():
    """Returns the orderings of Table 6.2."""
    claims = []
    for column in SEGMENTATION_SCORES:
        text = f'atrous pooling raises the PSPNet-score: {column}'
        claims.append(Claim(text, column, 'score_atrous', 'score_resize'))
    claims += [
        Claim('features of atrous pooling raise the mIoU', 'mIoU', 'refit_atrous', BASELINE),
        Claim('features of the shrunk layout lower the mIoU', 'mIoU', BASELINE, 'refit_resize'),
    ]
    return tuple(claims)


def get_table():
    """Returns the table."""
    return Table(
        title='Synthetic dense features: Table 6.2',
        source='He, thesis, Table 6.2 (Cityscapes)',
        columns=(
            *share_columns(SEGMENTATION_SCORES, digits=2),
            Column('diversity', 'diversity', digits=3),
        ),
        rows=get_rows(),
        scales={
            'quick': small_scale('quick', STREETS),
            'camvid_quick': small_scale('camvid_quick', 'CamVid at 120x160'),
            'paper': Scale('', (0,), note="The thesis' setting, one run each."),
        },
        notes='diversity: standard deviation of features over codes, in standard deviations of a '
        'channel.',
        claims=get_claims(),
    )
