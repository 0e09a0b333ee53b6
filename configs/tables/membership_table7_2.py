"""Table 7.2 of He's thesis, and the scores of its Figs. 7.5, 7.6, 7.11 and 7.12: defences.

python -m segjax.main --mode table --table configs/tables/membership_table7_2.py \\
    --scale quick --workdir runs/table7_2
... --scale paper --config.data.root=/data/cityscapes
    --override 'features:init_from.path=pspnet101_cityscapes.pth'
    --override '^(?!features|a1):shadow_data.root=/data/bdd100k'

The hidden row `features` trains the generator of the defence SynFeat on the members. The row
`none` trains the adversary A2 against its net. All rows of A2 audit this run with another defence.
The rows of A1 audit a second victim, which A1 may query.
"""

from segjax.modes.table import (
    SEGMENTATION_SCORES,
    STREETS,
    Claim,
    Column,
    Row,
    Scale,
    Scatter,
    Table,
    share_columns,
    small_scale,
    with_published,
)

FEATURES = 'configs/dense_features.py:{scale}'
FILE = 'configs/membership.py:{scale}'
NONE = 'none'
A1 = 'a1_none'
DEFENCES = {
    'argmax': ('Argmax', 'argmax', 0.0),
    'dropout_0.1': ('Dropout (0.1)', 'dropout', 0.1),
    'dropout_0.9': ('Dropout (0.9)', 'dropout', 0.9),
    'gaussian_0.5': ('Gaussian (0.5)', 'gaussian', 0.5),
    'gaussian_1.0': ('Gaussian (1.0)', 'gaussian', 1.0),
    'synfeat_0.75': ('SynFeat (0.75)', 'obfuscate', 0.75),
    'synfeat_0.95': ('SynFeat (0.95)', 'obfuscate', 0.95),
}
"""{key: (name, defence, strength)}."""
OF_A1 = ('argmax', 'dropout_0.1', 'dropout_0.9', 'gaussian_0.5', 'gaussian_1.0')
"""Defences of the rows of A1. A generator of SynFeat would belong to another victim."""
PUBLISHED = {
    NONE: (96.3, 86.3, 79.7, 93.2, 97.8, 93.5, 88.6, 95.9),
    'dropout_0.1': (96.3, 86.3, 79.7, 93.1, 97.8, 93.2, 88.7, 95.8),
    'dropout_0.9': (95.8, 84.1, 76.6, 92.2, 97.1, 91.6, 85.7, 94.9),
    'gaussian_0.5': (90.8, 79.4, 65.7, 84.1, 92.2, 85.9, 73.1, 86.4),
    'gaussian_1.0': (80.2, 71.3, 49.2, 69.6, 81.3, 76.6, 52.8, 70.4),
    'synfeat_0.75': (95.7, 80.5, 74.0, 92.0, 97.1, 91.7, 87.0, 94.9),
    'synfeat_0.95': (95.0, 75.0, 67.3, 91.2, 96.6, 89.8, 82.8, 93.8),
}
"""{row: numbers of non-members (Val), then of members (Train)}, by SEGMENTATION_SCORES."""
MEMBERS = {f'members {name}': f'members_{score}' for name, score in SEGMENTATION_SCORES.items()}
ATTACKS = {
    'AUC': 'AUC',
    'patch AUC': 'attacks/attacker_patches/AUC',
    'loss AUC': 'attacks/loss/AUC',
    'confidence AUC': 'attacks/confidence/AUC',
}
QUICK = (
    "data.lists=('victim_members=train:draw(96, seed=0, single=sequence)', "
    "'victim_non_members=train:draw(96, seed=0, single=sequence)', "
    "'shadow_members=train:draw(96, seed=0, single=sequence)', "
    "'shadow_non_members=train:draw(96, seed=0, single=sequence)')",
    'data.train_split=victim_members',
    'data.eval_split=victim_non_members',
    'data.world.num_train=3072',
    'data.world.num_val=8',
)
"""The lists of configs/membership.py:quick, which the row `features` needs too."""
NOTES = (
    'AUC: area under the ROC curve of the attack net on images, 50 % at chance. patch AUC: of the '
    'attack net on patches. loss AUC and confidence AUC: of thresholds, without an attack net. '
    'TPR: true-positive rate at a false-positive rate of 1 %. gap: mIoU of members minus mIoU of '
    'non-members. scores.json of each run has 95 % intervals.'
)


def audited(key, evaluates, adversary, prefix=''):
    """Builds the row of a defence, which audits the run of another row."""
    name, defence, strength = DEFENCES[key]
    victim = 'train' if prefix else 'features'
    return Row(
        f'{prefix}{key}',
        name,
        f'{FILE},adversary={adversary},victim={victim},defence={defence},strength={strength}',
        labels={'adversary': 'A1' if prefix else 'A2'},
        evaluates=evaluates,
    )


def get_rows():
    """Returns the rows of A2, and then the rows of A1."""
    rows = [
        Row('features', 'generator', FEATURES, overrides=('refit.use=none',), hidden=True),
        Row(
            NONE,
            'No defence',
            f'{FILE},adversary=independent,victim=features',
            labels={'adversary': 'A2'},
            after='features/features',
        ),
    ]
    rows += [audited(key, NONE, 'independent') for key in DEFENCES]
    rows.append(
        Row(
            A1,
            'No defence',
            f'{FILE},adversary=dependent,victim=train',
            published={'precision at 0.8': 83.0},
            labels={'adversary': 'A1'},
        )
    )
    rows += [audited(key, A1, 'dependent', 'a1_') for key in OF_A1]
    return with_published(rows, (*SEGMENTATION_SCORES, *MEMBERS), PUBLISHED)


def get_claims():
    """Returns the claims of Secs. 7.4.1 and 7.4.2."""
    return (
        Claim('argmax protects from A1', 'AUC', A1, 'a1_argmax'),
        Claim('Gaussian noise protects from A2', 'AUC', NONE, 'gaussian_1.0'),
        Claim('SynFeat protects from A2', 'AUC', NONE, 'synfeat_0.95'),
        Claim('SynFeat protects better than dropout', 'AUC', 'dropout_0.9', 'synfeat_0.95'),
        Claim('a larger factor protects better', 'AUC', 'synfeat_0.75', 'synfeat_0.95'),
        Claim('dropout protects from A1', 'AUC', A1, 'a1_dropout_0.9'),
        Claim('Gaussian noise costs mIoU', 'mIoU', NONE, 'gaussian_1.0'),
        Claim('SynFeat keeps more mIoU than noise', 'mIoU', 'synfeat_0.95', 'gaussian_1.0'),
        Claim('SynFeat lowers the mIoU of members', 'members mIoU', NONE, 'synfeat_0.95'),
    )


def get_table():
    """Returns the table."""
    precision = {'precision at 0.8': 'precision_at_recall_0.8', 'TPR': 'TPR_at_1_percent'}
    attacks = []
    for name, score in {**ATTACKS, **precision}.items():
        attacks.append(Column(name, score, unit='%', factor=100, better='min'))
    return Table(
        title='Membership inference: Table 7.2',
        source='He, thesis, Table 7.2 and Sec. 7.4.1.1 (Cityscapes)',
        columns=(
            *attacks,
            *share_columns(SEGMENTATION_SCORES),
            *share_columns(MEMBERS),
            Column('gap', 'gap_mIoU', unit='%', factor=100),
        ),
        rows=get_rows(),
        scales={
            'quick': small_scale('quick', STREETS, *QUICK),
            'paper': Scale('', (0,), note="The thesis' setting, one run each."),
        },
        notes=NOTES,
        compare=(NONE, 'dropout_0.9', 'gaussian_1.0', 'synfeat_0.95'),
        claims=get_claims(),
        scatters=(Scatter('AUC', 'mIoU'), Scatter('loss AUC', 'mIoU')),
    )
