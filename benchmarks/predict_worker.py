"""Times `--mode predict`: `python -m benchmarks.predict_worker` (benchmarks/predict.py)."""

import pathlib
from typing import Any

from benchmarks import serving
from segjax import config as config_lib
from segjax.modes import predict as predict_mode
from segjax.train import stored


def predict(workdir: str, source: str, target: str) -> dict[str, Any]:
    """Predicts a folder of images, an image or a video with the last checkpoint of a run.

    Args:
      workdir: folder of the run.
      source: the input.
      target: folder for the results.

    Returns:
      The summary of the prediction, and 'peak_bytes' of this process.
    """
    config = config_lib.from_json(stored.read_config(pathlib.Path(workdir) / stored.CONFIG))
    summary = predict_mode.main(config, workdir, source, target, 'last')
    return {**summary, 'peak_bytes': serving.peak_memory()}


if __name__ == '__main__':
    serving.serve({'predict': predict})
