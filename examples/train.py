"""Trains a small net from Python, without the command line: `python train.py [FOLDER [STEPS]]`.

Prints the mean IoU of each stage. FOLDER becomes a run folder, with report.html and scores.json.
"""

import sys

from segjax import config as config_lib
from segjax.train import driver

workdir = sys.argv[1] if len(sys.argv) > 1 else 'runs/example'
num_steps = int(sys.argv[2]) if len(sys.argv) > 2 else 100

config = config_lib.defaults('supervised')
config_lib.choose(config, 'model', 'erfnet')
config_lib.smoke(config)  # 16 images of 64x32 pixels, which are rendered on first use
config_lib.update(
    config,
    model=dict(width=0.25, blocks=(1, 1, 0, 0)),
    train=dict(num_steps=num_steps),
    optim=dict(name='adam', learning_rate=1e-2),
    logging=dict(log_every=10, eval_every=50, checkpoint_every=50),
)

# A second call with the same folder resumes. It only evaluates if all steps are done.
for stage, scores in driver.train(config, workdir).items():
    print(f'{stage}: mean IoU {scores["mIoU"]:.3f}')
