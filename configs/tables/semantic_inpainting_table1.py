"""Table 1 of the paper on Denoise Activation: remedies against noise pixels, on Cityscapes.

python -m segjax.main --mode table --table configs/tables/semantic_inpainting_table1.py \\
    --scale quick --workdir runs/inpainting_table1
... --scale video --config.data.root=/data/cityscapes_video
                               predicted label maps of Cityscapes sequences, with narrow nets
... --scale paper --config.data.root=/data/cityscapes
                               6 trainings of 200 epochs on Cityscapes

All rows of a seed score Sem with the classifier of the hidden row `classifier`. At the scale paper
it is an EfficientNet-B7 that is trained on the shapes of the data set, from random parameters. The
paper's classifier starts from ImageNet and has seen COCO. A run of configs/shape_classifier.py
takes its place in all rows but the hidden row:
--override "^[^c]:init_from.sources=(('classifier', 'runs/shapes'),)" \\
--override '^[^c]:shapes.num_outputs=80'

The rows DA(Test) and DA(Both) evaluate the nets of TwoSM and of DA(Train). The paper has both rows
in Table 2 alone.
"""

from segjax.modes.table import (
    STREETS,
    Claim,
    Column,
    Row,
    Scale,
    Table,
    small_scale,
    with_published,
)

FILE = 'configs/semantic_inpainting.py:{scale}'
LOADED = ('classifier.use=load',)
"""Override of rows that score Sem with the classifier of another row."""
TWO_STREAM = 'twosm'
DA_TRAIN = 'da_train'

PUBLISHED = {
    TWO_STREAM: (82.85, 84.28, 5.519, 0.2756),
    'unetd': (76.83, 77.34, 11.61, 0.4049),
    'adnet': (82.35, 83.32, 5.088, 0.2920),
    'ridnet': (78.30, 78.77, 6.648, 0.3466),
    'ffdnet': (83.28, 84.24, 7.352, 0.2911),
    DA_TRAIN: (83.30, 84.77, 4.832, 0.2850),
}
"""{row: (tIOU, hamm, NN, Sem)}."""
COLUMNS = ('tIOU', 'hamm', 'NN', 'Sem')
NOTES = (
    'tIOU: intersection over union of the target class inside the box. hamm: share of right pixels '
    'inside the box. NN: noise pixels of a box, whose class does not occur in the true box. Sem: '
    'difference of the shapes in the eyes of a classifier. Noisy boxes: share of the boxes with a '
    'noise pixel. Predictors that see no context are in scores.json of each run: the filled box, '
    'the mean training shape of the class, and a training shape.'
)


def trained(key, name, arguments):
    """Builds the row of a training."""
    return Row(key, name, f'{FILE},{arguments}', overrides=LOADED, after='classifier')


def tested(key, name, arguments, evaluates):
    """Builds the row of a trained net that is tested with the noise filter."""
    return Row(key, name, f'{FILE},{arguments}', overrides=LOADED, evaluates=evaluates)


def get_rows():
    """Returns all rows, the hidden classifier first."""
    rows = (
        Row('classifier', 'shape classifier', f'{FILE},system=shapes', hidden=True),
        trained(TWO_STREAM, 'TwoSM', 'da=none'),
        trained('unetd', 'TwoSM + DANet', 'denoiser=unetd'),
        trained('adnet', 'TwoSM + ADCNN', 'denoiser=adnet'),
        trained('ridnet', 'TwoSM + RIDNet', 'denoiser=ridnet'),
        trained('ffdnet', 'TwoSM + FFDNet', 'denoiser=ffdnet'),
        tested('da_test', 'TwoSM + DA(Test)', 'da=test', TWO_STREAM),
        trained(DA_TRAIN, 'TwoSM + DA(Train)', 'da=train'),
        tested('da_both', 'TwoSM + DA(Both)', 'da=both', DA_TRAIN),
    )
    return with_published(rows, COLUMNS, PUBLISHED)


def get_claims():
    """Returns the claims."""
    return (
        Claim('DA in training removes noise pixels', 'NN', TWO_STREAM, DA_TRAIN),
        Claim('DA in testing removes noise pixels', 'NN', TWO_STREAM, 'da_test'),
        Claim('DA in both removes most noise pixels', 'NN', DA_TRAIN, 'da_both'),
        Claim('DA in training removes more than DA in testing', 'NN', 'da_test', DA_TRAIN),
        Claim('DA in training raises tIOU', 'tIOU', DA_TRAIN, TWO_STREAM),
        Claim('DA in training raises hamm', 'hamm', DA_TRAIN, TWO_STREAM),
        Claim('DA in testing raises tIOU', 'tIOU', 'da_test', TWO_STREAM),
        Claim('DA in testing raises hamm', 'hamm', 'da_test', TWO_STREAM),
        Claim('the best denoiser has lower tIOU than DA', 'tIOU', DA_TRAIN, 'ffdnet'),
        Claim('the least noisy denoiser has more noise than DA', 'NN', 'adnet', DA_TRAIN),
    )


def get_table():
    """Returns the table."""
    return Table(
        title='Noise pixels in semantic inpainting: Table 1',
        source='He et al., Table 1 (Cityscapes, 8 movable classes)',
        columns=(
            Column('tIOU', 'tIOU', unit='%', factor=100, better='max', digits=2),
            Column('hamm', 'hamm', unit='%', factor=100, better='max', digits=2),
            Column('NN', 'NN', better='min', digits=3),
            Column('Sem', 'Sem', better='min', digits=4),
            Column('noisy boxes', 'noisy_boxes', unit='%', factor=100, better='min'),
        ),
        rows=get_rows(),
        scales={
            # More maps and steps than a first look needs: nets must have learned to be compared.
            'quick': small_scale(
                'quick,steps=2000',
                STREETS,
                'data.world.num_train=2000',
                'data.world.num_val=128',
            ),
            'video': small_scale(
                'video,steps=2000', 'predicted label maps of Cityscapes sequences'
            ),
            'paper': Scale('', seeds=(0,), note="The paper's setting. Its rows are one run each."),
        },
        notes=NOTES,
        compare=(TWO_STREAM, 'da_test', DA_TRAIN, 'da_both'),
        claims=get_claims(),
    )
