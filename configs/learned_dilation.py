"""Learned dilation factors (He, Keuper, Schiele, Fritz, GCPR 2017): one per channel, with the settings of Table 4.1.

  bash launch/local.sh --config configs/learned_dilation.py:quick --workdir runs/first

Variants:
  (none)    the paper's: DeepLab-LargeFOV on Cityscapes, crops of 321x321, batch 10, SGD 1e-3, poly 0.9 over 20,000
            steps, factors of conv5_1 to conv5_3 in [1, 4] and of fc6 in [4, 20]. Published val mIoU: fixed 61.44,
            learned 63.31, from weights trained on PASCAL VOC; --config.init_from.path names what to start from.
            --config.data.root=/data/cityscapes (or $CITYSCAPES_DATASET)
  camvid    on CamVid at 640x480. Published, 11 classes: DeepLab-v2 65.2 fixed, 66.1 learned; PSPNet 73.4, 73.9.
            --config.data.root=/data/camvid
  camvid_quick  CamVid at 160x128 with the nets and rates of quick: minutes on two CPU cores
  quick     the embedded world `streets` with nets of a quarter of the width, from scratch: minutes on two CPU cores
  smoke     seconds, for tests

Not the paper's, or not said there: means of BGR and augmentation are those of the nets' releases (mirroring; for
DeepLab-v2 and PSPNet also scales, for PSPNet rotation and blur); batch norm uses the batch's statistics (as released:
frozen, --config.model.frozen_norm=True, which needs trained ones); Table 4.1 prints PSPNet's rate as 1x10^4, read as
1e-4; LargeFOV on CamVid is not in it and takes DeepLab-v2's steps. Images are evaluated whole. Pre-training on coarse
labels, as PSPNet had it:
--config.data.name=cityscapes_coarse --config.pretrain.split=train_extra --config.pretrain.num_steps=20000

Arguments: `net=largefov|deeplab_v2|pspnet`; `dilation=learned|fixed`, fixed is the baseline; `start=constant|uniform`.
E.g. --config configs/learned_dilation.py:camvid,net=pspnet,dilation=fixed
"""

from segjax import config as config_lib
from segjax.errors import unknown_name

NETS = {'largefov': 'deeplab_largefov', 'deeplab_v2': 'deeplab_v2', 'pspnet': 'pspnet'}
LEARN = {'learned': ('.*',), 'fixed': ()}


def get_config(arg=''):
    args = config_lib.parse_arg(
        arg, variants=('camvid', 'camvid_quick', 'quick', 'smoke'), net='largefov', dilation='learned', start='constant'
    )
    for name, known in (('net', NETS), ('dilation', LEARN), ('start', ('constant', 'uniform'))):
        if args[name] not in known:
            raise unknown_name(f'--config configs/learned_dilation.py:...,{name}=', args[name], known)
    config = config_lib.defaults('learned_dilation')
    config_lib.choose(config, 'model', NETS[args.net])
    sgd = dict(name='sgd', momentum=0.9, weight_decay=5e-4, schedule='poly', power=0.9)
    config_lib.update(
        config,
        preprocess='caffe',
        augment=dict(flip=0.5),
        data=dict(name='cityscapes', eval_size=(1024, 2048)),
        train=dict(num_steps=20_000),
        evaluate=dict(batch_size=4),
        optim=sgd,
        dilation=dict(learn=LEARN[args.dilation], start=args.start),
        run=dict(log_every=50, eval_every=2500, checkpoint_every=2500),
    )
    {'largefov': _largefov, 'deeplab_v2': _deeplab_v2, 'pspnet': _pspnet}[args.net](config)
    variants = {'': lambda *_: None, 'camvid': _camvid, 'camvid_quick': _camvid_quick, 'quick': _quick, 'smoke': _smoke}
    variants[args.variant](config, args.net)
    return config


def _largefov(config):
    config_lib.update(
        config,
        augment=dict(crop=(321, 321)),
        train=dict(batch_size=10),
        loss=dict(label_stride=8),
        optim=dict(learning_rate=1e-3, factors=(('.*/bias', 2.0), ('.*/fc8/.*', 10.0))),
        dilation=dict(ranges=(('fc6', 4.0, 20.0),)),
    )


def _deeplab_v2(config):
    config.model.scales = (0.75, 0.5)
    config_lib.update(
        config,
        augment=dict(crop=(321, 321), scale=(0.5, 1.5)),
        train=dict(batch_size=10),
        loss=dict(label_stride=8, aux_weight=1.0),
        # Of the pyramid's filters and biases, not of its dilation factors.
        optim=dict(learning_rate=2.5e-4, factors=(('.*/aspp/.*/(kernel|bias)', 10.0), ('.*/aspp/.*/bias', 2.0))),
    )


def _pspnet(config):
    config.model.depth = 101
    config_lib.update(
        config,
        augment=dict(crop=(561, 561), scale=(0.5, 2.0), rotate=10.0, blur=0.5),
        train=dict(batch_size=16),
        loss=dict(aux_weight=0.4),
        optim=dict(learning_rate=1e-4, factors=((r'segmenter/(ppm|cls_\d|aux_\d)/.*', 10.0),)),
    )


def _camvid(config, net):
    config_lib.update(
        config,
        augment=dict(resize=(480, 640)),
        data=dict(name='camvid', eval_size=(480, 640)),
        train=dict(num_steps=10_000 if net == 'pspnet' else 15_000),
        run=dict(log_every=20, eval_every=1000, checkpoint_every=1000),
    )
    if net == 'pspnet':
        config_lib.update(config, augment=dict(crop=(473, 473)), train=dict(batch_size=10))


def _camvid_quick(config, net):
    _camvid(config, net)
    config_lib.update(config, augment=dict(resize=(128, 160)), data=dict(eval_size=(128, 160)))
    _short(config, net)


def _quick(config, net):
    config_lib.update(
        config,
        augment=dict(resize=()),
        data=dict(name='streets', eval_size=(128, 256), world=dict(num_train=400, num_val=64, size=(128, 256))),
    )
    _short(config, net)


def _short(config, net):
    """A training of minutes on whole images, with weights that let rare classes be learned so soon."""
    config_lib.update(
        config,
        augment=dict(crop=config.data.eval_size, scale=(1.0, 1.0), rotate=0.0, blur=0.0),
        train=dict(batch_size=4, num_steps=300),
        evaluate=dict(batch_size=8),
        loss=dict(class_weights='enet'),
        run=dict(log_every=10, eval_every=150, checkpoint_every=150, num_pictures=3),
    )
    _from_scratch(config, net, 0.25)


def _smoke(config, net):
    config_lib.smoke(config)
    config_lib.update(config, augment=dict(scale=(1.0, 1.0), rotate=0.0, blur=0.0))
    _from_scratch(config, net, 0.1)
    if net == 'largefov' and config.dilation.learn:
        config.dilation.learn = ('fc6',)  # compiles sooner than with all four


def _from_scratch(config, net, width):
    """Narrow nets without trained weights: Adam, whose steps of a factor are the rate itself, 0.01 pixels."""
    config.preprocess = 'imagenet'
    config.model.width = width
    if net == 'deeplab_v2':
        config.model.scales = ()
    if net != 'largefov':
        config.model.depth = 50
    config_lib.update(
        config,
        optim=dict(name='adam', learning_rate=1e-3, weight_decay=0.0, factors=()),
        dilation=dict(rate=10.0),
    )
