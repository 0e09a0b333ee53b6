"""Learned dilation factors (He, Keuper, Schiele, Fritz, GCPR 2017): one per channel, Table 4.1.

  bash launch/local.sh --config configs/learned_dilation.py:quick --workdir runs/dilation

Variants:
  (none)    the paper's: DeepLab-LargeFOV on Cityscapes, crops of 321x321, batch 10, SGD 1e-3, poly
            0.9 over 20,000 steps, factors of conv5_1 to conv5_3 in [1, 4] and of fc6 in [4, 20].
            Published val mIoU: fixed 61.44, learned 63.31. Needs trained weights, see below.
            --config.data.root=/data/cityscapes (or $CITYSCAPES_DATASET)
  camvid    on CamVid at 640x480. Published, 11 classes: DeepLab-v2 65.2 fixed, 66.1 learned; PSPNet
            73.4, 73.9. Needs trained weights. --config.data.root=/data/camvid
  camvid_vgg  CamVid at 160x120, LargeFOV of full width from trained VGG16 (torchvision's names).
            For configs/tables/learned_dilation_camvid.py. fc6 has a dilation of 5 in [1.5, 8]: as
            large a share of its 15x20 features as the published 12 in [4, 20] is of 41x41
  camvid_quick  CamVid at 160x120 with the nets and rates of quick: minutes on two CPU cores
  quick     the embedded world `streets` with nets of a quarter of the width, from scratch: minutes
            on two CPU cores
  smoke     seconds, for tests

Weights to start from, as --config.init_from.path=FILE (.safetensors, .npz, .pth):
  largefov    DeepLab-LargeFOV in Caffe's names (conv1_1.weight, .., fc8_voc12.bias). The thesis has
              a net trained on PASCAL VOC 2012.
              VGG16 in Caffe's names: add --config.preprocess=caffe
              VGG16 of torchvision: add --config.preprocess=imagenet
              fc6 and fc7 are sampled from VGG16's classifier, if the file has it.
  deeplab_v2  kazuto1011/deeplab-pytorch, deeplabv1_resnet101-coco.pth: trained on MS-COCO, as in
              the thesis.
  pspnet      hszhao/semseg, PSPNet-101 trained on Cityscapes. The thesis has the Caffe net.
A .caffemodel as FILE is refused with the command that converts it.
PSPNet's .caffemodel cannot be read: the arrays of its norms have no names, and its pyramid has
another order.

Not the paper's, or not said there: augmentation is that of the nets' releases (mirroring; for
DeepLab-v2 and PSPNet also scales, for PSPNet rotation and blur). Batch norm uses the batch's
statistics. As released, statistics, scales and biases are frozen: --config.model.frozen_norm=True,
which needs trained weights. Table 4.1 prints PSPNet's rate as 1x10^4, read as 1e-4. LargeFOV on
CamVid is not in it and has DeepLab-v2's steps. Images are evaluated whole. Pre-training on coarse
labels, as PSPNet had it:
--config.data.name=cityscapes_coarse --config.pretrain.split=train_extra
--config.pretrain.num_steps=20000

Arguments: `net=largefov|deeplab_v2|pspnet`, `dilation=learned|fixed|random`,
`start=constant|uniform`.
`fixed` is the baseline. `random` is a control of ours, not of the thesis: factors are uniform in
their ranges and never learn, which distinguishes learning from diversity.
E.g. --config configs/learned_dilation.py:camvid,net=pspnet,dilation=fixed
"""

from segjax import config as config_lib
from segjax.errors import InputError, unknown_name

VARIANTS = ('camvid', 'camvid_vgg', 'camvid_quick', 'quick', 'smoke')
NETS = {'largefov': 'deeplab_largefov', 'deeplab_v2': 'deeplab_v2', 'pspnet': 'pspnet'}
"""Argument `net` -> model.name."""
DILATIONS = {
    'learned': dict(learn=('.*',)),
    'fixed': dict(learn=()),
    'random': dict(learn=('.*',), start='uniform', rate=0.0),
}
"""Argument `dilation` -> section `dilation`."""
STARTS = ('constant', 'uniform')
WEIGHTS = {
    'largefov': 'DeepLab-LargeFOV trained on PASCAL VOC 2012',
    'deeplab_v2': 'DeepLab-v2 trained on MS-COCO',
    'pspnet': 'PSPNet trained on Cityscapes',
}
"""The published starts by `net`."""


def get_config(arg=''):
    """Returns the config of a variant, a net and its dilations."""
    args = config_lib.parse_arg(
        arg, variants=VARIANTS, net='largefov', dilation='learned', start='constant'
    )
    for name, known in (('net', NETS), ('dilation', DILATIONS), ('start', STARTS)):
        if args[name] not in known:
            where = f'--config configs/learned_dilation.py:...,{name}='
            raise unknown_name(where, args[name], known)

    # All nets share this part of Table 4.1.
    config = config_lib.defaults('learned_dilation')
    config_lib.choose(config, 'model', NETS[args.net])
    sgd = dict(name='sgd', momentum=0.9, weight_decay=5e-4, schedule='poly', power=0.9)
    config_lib.update(
        config,
        augment=dict(flip=0.5),
        data=dict(name='cityscapes', eval_size=(1024, 2048)),
        train=dict(num_steps=20_000),
        evaluate=dict(batch_size=4),
        init_from=dict(expected=WEIGHTS[args.net]),
        optim=sgd,
        dilation=dict(start=args.start),
        logging=dict(log_every=50, eval_every=2500, checkpoint_every=2500),
    )
    if args.net == 'largefov':
        _largefov(config)
    elif args.net == 'deeplab_v2':
        _deeplab_v2(config)
    elif args.net == 'pspnet':
        _pspnet(config)

    if args.variant == 'camvid':
        _camvid(config, args.net)
    elif args.variant == 'camvid_vgg':
        _camvid_vgg(config, args.net)
    elif args.variant == 'camvid_quick':
        _camvid_quick(config, args.net)
    elif args.variant == 'quick':
        _quick(config, args.net)
    elif args.variant == 'smoke':
        _smoke(config, args.net)

    # After the variant, because `random` replaces its rate.
    config_lib.update(config, dilation=DILATIONS[args.dilation])
    if args.variant == 'smoke' and args.net == 'largefov' and config.dilation.learn:
        # One layer compiles sooner than four. Taps of fc6 would be outside the 5x9 features.
        config.dilation.learn = ('vgg/conv5_3',)
    return config


def _largefov(config):
    """Sets the row of LargeFOV in Table 4.1. Biases learn at twice the rate, fc8 at ten times."""
    config_lib.update(
        config,
        preprocess='deeplab',
        augment=dict(crop=(321, 321)),
        train=dict(batch_size=10),
        loss=dict(label_stride=8),
        optim=dict(learning_rate=1e-3, factors=(('.*/bias', 2.0), ('.*/fc8/.*', 10.0))),
        dilation=dict(ranges=(('fc6', 4.0, 20.0),)),
    )


def _deeplab_v2(config):
    """Sets the row of DeepLab-v2 in Table 4.1, with the two smaller scales of its release."""
    config.model.scales = (0.75, 0.5)
    config_lib.update(
        config,
        preprocess='deeplab',
        augment=dict(crop=(321, 321), scale=(0.5, 1.5)),
        train=dict(batch_size=10),
        loss=dict(label_stride=8, aux_weight=1.0),
        # The pyramid's filters and biases learn faster, not its dilation factors.
        optim=dict(
            learning_rate=2.5e-4,
            factors=(('.*/aspp/.*/(kernel|bias)', 10.0), ('.*/aspp/.*/bias', 2.0)),
        ),
    )


def _pspnet(config):
    """Sets the row of PSPNet in Table 4.1. New layers learn at ten times the rate."""
    config.model.num_layers = 101
    config_lib.update(
        config,
        preprocess='imagenet',
        augment=dict(crop=(561, 561), scale=(0.5, 2.0), rotate=10.0, blur=0.5),
        train=dict(batch_size=16),
        loss=dict(aux_weight=0.4),
        optim=dict(learning_rate=1e-4, factors=((r'segmenter/(ppm|cls_\d|aux_\d)/.*', 10.0),)),
    )


def _camvid(config, net):
    """Sets CamVid at 480x640, with the steps and crops of Table 4.1."""
    config_lib.update(
        config,
        augment=dict(resize=(480, 640)),
        data=dict(name='camvid', eval_size=(480, 640)),
        train=dict(num_steps=10_000 if net == 'pspnet' else 15_000),
        logging=dict(log_every=20, eval_every=1000, checkpoint_every=1000),
    )
    if net == 'pspnet':
        config_lib.update(config, augment=dict(crop=(473, 473)), train=dict(batch_size=10))


def _camvid_small(config, net):
    """Sets 120x160 pixels: a third of the images along both axes."""
    _camvid(config, net)
    config_lib.update(config, augment=dict(resize=(120, 160)), data=dict(eval_size=(120, 160)))


def _camvid_vgg(config, net):
    """Sets a small training of LargeFOV from VGG16."""
    if net != 'largefov':
        raise InputError(
            '--config configs/learned_dilation.py:camvid_vgg,net=',
            got=repr(net),
            expected="'largefov', the net with a VGG16",
            fix='--config configs/learned_dilation.py:camvid_vgg',
        )
    _camvid_small(config, net)
    config.model.fov = 5
    config_lib.update(
        config,
        preprocess='imagenet',
        augment=dict(crop=config.data.eval_size),
        train=dict(batch_size=4, num_steps=400),
        evaluate=dict(batch_size=8),
        # With a stride of 8, 15x20 labels would be left of an image.
        loss=dict(label_stride=1, class_weights='enet'),
        init_from=dict(expected="VGG16 in torchvision's names"),
        # With Adam a factor moves by its rate in each step: 0.1 pixels.
        optim=dict(
            name='adam',
            learning_rate=1e-4,
            weight_decay=0.0,
            factors=(('.*/fc[678]/(kernel|bias)', 10.0),),
        ),
        dilation=dict(rate=1000.0, ranges=(('fc6', 1.5, 8.0),)),
        logging=dict(log_every=10, eval_every=200, checkpoint_every=200, num_pictures=3),
    )


def _camvid_quick(config, net):
    """Sets small images of CamVid and small nets."""
    _camvid_small(config, net)
    _short(config, net)


def _quick(config, net):
    """Sets 400 rendered images and small nets."""
    config_lib.update(
        config,
        augment=dict(resize=()),
        data=dict(
            name='streets',
            eval_size=(128, 256),
            world=dict(num_train=400, num_val=64, size=(128, 256)),
        ),
    )
    _short(config, net)


def _short(config, net):
    """Sets a training of minutes on whole images; class weights let it learn rare classes."""
    config_lib.update(
        config,
        augment=dict(crop=config.data.eval_size, scale=(1.0, 1.0), rotate=0.0, blur=0.0),
        train=dict(batch_size=4, num_steps=300),
        evaluate=dict(batch_size=8),
        loss=dict(class_weights='enet'),
        logging=dict(log_every=10, eval_every=150, checkpoint_every=150, num_pictures=3),
    )
    _from_scratch(config, net, 0.25)


def _smoke(config, net):
    """Sets the smallest nets, and four steps."""
    config_lib.smoke(config)
    config_lib.update(config, augment=dict(scale=(1.0, 1.0), rotate=0.0, blur=0.0))
    _from_scratch(config, net, 0.1)


def _from_scratch(config, net, width):
    """Sets narrow nets without trained weights, and Adam with factor steps of 0.01 pixels."""
    config.preprocess = 'imagenet'
    config.init_from.expected = ''
    config.model.width = width
    if net == 'deeplab_v2':
        config.model.scales = ()
    if net != 'largefov':
        config.model.num_layers = 50
    config_lib.update(
        config,
        optim=dict(name='adam', learning_rate=1e-3, weight_decay=0.0, factors=()),
        dilation=dict(rate=10.0),
    )
