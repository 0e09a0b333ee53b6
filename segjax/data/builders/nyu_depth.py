"""NYUDv2: labelled RGB-D frames of rooms, with the video around them."""

import pathlib
from typing import Any

from segjax.data.builders.base import FileDataset
from segjax.data.builders.nyu_folders import NyuFolders
from segjax.data.builders.nyu_frames import LABELLED
from segjax.data.builders.nyu_matlab import NyuLabelled


class NyuDepth(FileDataset):
    """NYUDv2: 1449 labelled frames, 40 classes, 425x560. The folder decides its layout.

    Matlab: `nyu_depth_v2_labeled.mat`, the official download, and `splits.mat` with its 795
    training and 654 test frames. The package h5py reads the file. If `nyud2_folder.txt` and
    `nyud2_target.txt` of STD2P are there, which list scene and frame of each labelled frame, its
    video is read from `{scene}/{image}` and `{scene}/depth`. Only its label comes from the file.

    Stills: `{split}/{image}/{number}.png`, `{split}/depth/{number}.png` and
    `{split}/label40/{number}.png`, for the splits `train`, `val` and `test`. Without folders of
    splits, these folders lie in the root folder.

    Video: `{scene}/{image}/{number}.jpg`, `{scene}/depth/{number}.png`, and
    `{scene}/label40/{number}.png` for labelled frames, perhaps in folders of splits. Each labelled
    frame is the target of its own clip (`rgbd.around_targets`): frames at multiples of
    `rgbd.interval`, at most `rgbd.steps` intervals away.

    The folder of images is `image`, `images`, `color` or `rgb`. Stills need no images. Labels may
    be `label40` or `labels_40`, and with 894, 13 or 4 in place of 40. The first number of 40, 894,
    13 and 4 that all folders have is read. Labels of 894 classes become labels of 40 classes.
    Labels of 40 classes offer the class maps `13` and `4`. In all files 0 is void.

    Depth files have 16 bits, and `rgbd.depth_scale` must declare their unit. Depth should be filled
    and projected into the image.

    Crop. Frames of 480x640 are cropped to rows 45 to 469 and columns 40 to 599, on which the
    published scores are measured. Intrinsics follow the crop. Frames of 425x560 are cropped
    already.

    Splits are folders, or `train.txt`, `val.txt` and `test.txt` in the root folder. Each line of a
    list is the number of a still, a scene, or `{scene}/{number}` of a labelled frame. Without
    lists, `splits.mat` divides stills by their number, from 1. For video it also needs the two
    lists of STD2P. Otherwise everything is `train`.

    Sources: Silberman et al., Indoor Segmentation and Support Inference from RGBD Images, ECCV
    2012. He et al., STD2P, CVPR 2017, for the clips.
    """

    def __new__(cls, config: Any):
        root = pathlib.Path(config.root).expanduser()
        is_labelled = bool(config.root) and (root / LABELLED).is_file()
        return NyuLabelled(config) if is_labelled else NyuFolders(config)
