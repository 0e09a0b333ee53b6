"""Tests whether learning the dilation helps a trained net: DeepLab-LargeFOV on CamVid at 160x120.

python -m segjax.main --mode table --table configs/tables/learned_dilation_camvid.py --scale quick \
    --workdir runs/dilation_camvid --config.data.root=/data/camvid \
    --override '^start$:init_from.path=vgg16.safetensors'

This experiment is ours, after the thesis, and small enough for a CPU. The row `start` trains the
net with fixed dilations, from VGG16 in torchvision's names. All other rows begin from that net,
seed by seed, and continue at a tenth of its rate, so they differ in their factors alone. A factor
moves by up to 0.1 pixels a step.

On one CPU core a step of 4 images takes 4.4 seconds: half an hour for the start (400 steps), a
quarter of an hour for every other row (200 steps), 4.5 hours for three seeds.
"""

from segjax.modes.table import Claim, Column, Row, Scale, Table, share_columns

FILE = 'configs/learned_dilation.py:{scale}'
CLASSES = ('Sign', 'Pedestrian', 'Fence', 'Pole', 'Bicyclist')
# A tenth of the rate of the start.
FURTHER = ('optim.learning_rate=1e-5', 'train.num_steps=200')
# A factor moves by 0.1 pixels a step, which is 10,000 times that rate.
FACTORS = 'dilation.rate=10000.0'


def row(key, name, arguments, factors, *overrides):
    """Builds a row that continues the start."""
    config = f'{FILE},{arguments}'
    return Row(
        key,
        name,
        config,
        overrides=(*FURTHER, *overrides),
        labels={'factors': factors},
        after='start',
    )


def get_table():
    """Returns the table."""
    of_classes = share_columns({name: f'IoU/{name}' for name in CLASSES})
    claims_about_classes = [
        Claim(f'learning helps: {name}', name, 'learned', 'fixed') for name in CLASSES
    ]
    return Table(
        title='Learned dilation factors of a trained net, CamVid',
        source='Ours, after He, thesis, Tables 4.2 and 4.4 (DeepLab-LargeFOV)',
        columns=(
            *of_classes,
            Column('Mean IoU', 'mIoU', unit='%', factor=100, better='max'),
            Column('Mean IoU, whole factors', 'mIoU_whole_factors', unit='%', factor=100),
            Column('fc6, mean', 'dilation/fc6/mean', unit='px', digits=2),
            Column('fc6, spread', 'dilation/fc6/std', unit='px', digits=2),
        ),
        rows=(
            Row('start', 'the common start', f'{FILE},dilation=fixed', hidden=True),
            row('fixed', 'fixed', 'dilation=fixed', '2, 2, 2, 5'),
            row('learned', 'learned', 'dilation=learned', '2, 2, 2, 5, learned', FACTORS),
            row('uniform', 'learned, random start', 'start=uniform', 'uniform, learned', FACTORS),
            row('random', 'random, fixed', 'dilation=random', 'uniform'),
        ),
        scales={
            'quick': Scale(
                'camvid_vgg',
                seeds=(0, 1, 2),
                overrides=(
                    'logging.num_pictures=0',
                    'logging.eval_every=0',
                    'logging.checkpoint_every=0',
                ),
                note='CamVid at 160x120, scored on the split val; a training of minutes whose '
                'numbers are not comparable with the published ones.',
            ),
        },
        notes='All rows begin from one net, trained with fixed dilations of 2, 2, 2 and 5. Random '
        'factors never learn: they tell learning from diversity. Columns fc6 are mean and standard '
        'deviation of its factors.',
        compare=('fixed', 'learned', 'uniform', 'random'),
        claims=(
            Claim('learning helps', 'Mean IoU', 'learned', 'fixed'),
            Claim('learning beats random factors', 'Mean IoU', 'learned', 'random'),
            Claim('learning repairs a random start', 'Mean IoU', 'uniform', 'random'),
            *claims_about_classes,
        ),
    )
