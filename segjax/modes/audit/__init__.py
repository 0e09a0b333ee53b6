"""`--mode audit`: measures how much a segmentation net leaks about its training set.

The net is a finished run (nets.py), or a folder of saved posteriors (folders.py). Nothing is
trained. Members are images of the training set, non-members are further images. All images are
asked about, and each answer leaves a few sums (measure.py): posteriors are never collected. The
sums are also taken behind each defence (defences.py). Then every attack without training is scored
(attacks.py), with shadow nets of the attacker if there are some (shadows.py).

    <output>/audit.html   the page: verdict, attacks, curves, defences, classes, exposed images
    <output>/audit.json   all numbers of the page
    <output>/images.csv   signals and scores of each image, the most exposed members first

The verdict has an interval that holds for all attacks together. A warning says that members and
non-members differ in more than membership (facts.py), so that an attack need not show a leak.

Results do not depend on batches or on the order of the images. The noise of a defence is a function
of the image, or of its saved posteriors.
"""

from segjax.modes.audit.order import Order
from segjax.modes.audit.run import main

__all__ = ['Order', 'main']
