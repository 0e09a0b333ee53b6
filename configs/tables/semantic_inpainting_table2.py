"""Table 2 of the paper on Denoise Activation: remedies against noise pixels, on bedrooms of ADE20K.

python -m segjax.main --mode table --table configs/tables/semantic_inpainting_table2.py \\
    --scale paper --config.data.root=/data/ADE20K --workdir runs/inpainting_table2

6 trainings of 200 epochs on the bedrooms. Table 1 has the small scales.
All rows of a seed score Sem with the classifier of the hidden row `classifier`. At the scale paper
it is an EfficientNet-B7 that is trained on the shapes of the data set, from random parameters. The
paper's classifier starts from ImageNet and has seen COCO. A run of configs/shape_classifier.py
takes its place in all rows but the hidden row:
--override "^[^c]:init_from.sources=(('classifier', 'runs/shapes'),)" \\
--override '^[^c]:shapes.num_outputs=80'

The rows DA(Test) and DA(Both) evaluate the nets of TwoSM and of DA(Train).
"""

import pathlib

from segjax.modes.table import Scale, load, with_published

FIRST = pathlib.Path(__file__).with_name('semantic_inpainting_table1.py')
"""The table whose rows, columns and claims are those of this table."""
COLUMNS = ('tIOU', 'hamm', 'NN', 'Sem')
PUBLISHED = {
    'twosm': (65.05, 67.50, 501.16, 0.4762),
    'unetd': (63.38, 66.45, 103.64, 0.4640),
    'adnet': (68.61, 69.96, 39.04, 0.4892),
    'ridnet': (63.76, 66.12, 91.67, 0.4677),
    'ffdnet': (62.71, 64.56, 262.41, 0.5067),
    'da_test': (66.32, 68.43, 413.71, 0.4767),
    'da_train': (69.79, 71.16, 33.54, 0.4891),
    'da_both': (69.67, 70.98, 25.64, 0.4889),
}
"""{row: (tIOU, hamm, NN, Sem)}."""


def get_claims(first):
    """Returns the claims of Table 1 for the denoiser with the highest tIOU of Table 2."""
    claims = []
    for claim in first.claims:
        if claim.lower == 'ffdnet':
            claim = claim._replace(lower='adnet')
        claims.append(claim)
    return tuple(claims)


def get_table():
    """Returns the table."""
    first = load(FIRST)
    return first._replace(
        title='Noise pixels in semantic inpainting: Table 2',
        source='He et al., Table 2 (bedrooms of ADE20K, 7 classes)',
        rows=with_published(first.rows, COLUMNS, PUBLISHED),
        scales={
            'paper': Scale(
                'bedroom', seeds=(0,), note="The paper's setting. Its rows are one run each."
            ),
        },
        claims=get_claims(first),
    )
