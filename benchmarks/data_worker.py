"""Times the training input of segjax: `python -m benchmarks.data_worker` (benchmarks/data.py)."""

import pathlib
import tempfile

from benchmarks import serving
from segjax.config import config_file
from segjax.modes.bench.run import bench_input
from segjax.modes.bench.stages import TimedRun
from segjax.train import driver


def read(kind: str, count: int, root: str, size: list[int], batch_size: int, batches: int) -> float:
    """Returns the images a second of the training input of `configs/supervised.py`.

    Args:
      kind: 'threads' or 'workers'.
      count: number of threads, or of worker processes of one thread.
      root: a folder with images, masks and classes.yaml.
      size: (height, width) to which images are resized.
      batch_size: images of a batch.
      batches: timed batches, at least.
    """
    path = pathlib.Path(__file__).resolve().parents[1] / 'configs/supervised.py'
    size_text = f'({size[0]},{size[1]})'
    settings = {
        'augment.resize': size_text,
        'augment.crop': size_text,
        'bench.repetitions': batches,
        'data.name': 'folder',
        'data.root': root,
        'data.classes': f'{root}/classes.yaml',
        'data.eval_size': size_text,
        'data.threads': count if kind == 'threads' else 1,
        'data.workers': count if kind == 'workers' else 0,
        'evaluate.batch_size': batch_size,
        'train.batch_size': batch_size,
    }
    text = ';'.join(f'{key}={value}' for key, value in settings.items())
    config = config_file.overridden(config_file.load(str(path)), text)

    # Nothing of the net is computed: the input needs no state.
    with tempfile.TemporaryDirectory() as folder:
        run, (stage,) = driver.checked_run(config, folder, 'train', trace_steps=False)
        measured = bench_input(TimedRun(run, stage, None), config.bench)
    return measured['images_per_second']


if __name__ == '__main__':
    serving.serve({'read': read})
