"""Compares finished runs: opens them, predicts with one net after the other, writes the page."""

import gc
import pathlib
import shutil
from collections.abc import Sequence

from segjax.config import config_file
from segjax.core import files, parallel
from segjax.data import table_rows
from segjax.errors import InputError
from segjax.modes.compare import differences, page, scores
from segjax.modes.compare.labels import LabelFiles, choose, compare, predict_split
from segjax.modes.compare.pictures import write_group
from segjax.modes.compare.runs import Compared, check_comparable, open_compared, parse
from segjax.train.stop import StopSignal


def main(
    runs: str,
    names: str,
    stage: str,
    output: str,
    num_pictures: int,
    assignments: Sequence[config_file.Assignment] = (),
) -> pathlib.Path:
    """Runs `--mode compare`.

    Args:
      runs, names, stage: as in `runs.parse`.
      output: folder for the page, the scores and the pictures.
      num_pictures: images to show.
      assignments: of config keys, for all runs.

    Returns:
      The path of the page.

    Raises:
      InputError: runs that cannot be compared, before anything compiles.
      Preempted: the process was told to stop.
    """
    _check(num_pictures)
    asked = parse(runs, names, stage)
    folder = pathlib.Path(output)
    with StopSignal() as stop:
        compared = [open_compared(each, assignments, stop) for each in asked]
        check_comparable(compared)
        # A stopped comparison may have left class maps of other runs.
        store = LabelFiles(folder / '.labels')
        shutil.rmtree(store.folder, ignore_errors=True)
        try:
            path = _write(compared, store, folder, num_pictures, stop)
        finally:
            shutil.rmtree(store.folder, ignore_errors=True)
    print(f'comparison: {path}', flush=True)
    return path


def _check(num_pictures: int) -> None:
    """Raises InputError for no pictures, or more than one process."""
    if num_pictures < 1:
        fix = '--pictures 8'
        raise InputError('--pictures', got=str(num_pictures), expected='at least 1', fix=fix)
    parallel.check_single_process('--mode compare')


def _write(
    runs: Sequence[Compared],
    store: LabelFiles,
    folder: pathlib.Path,
    num_pictures: int,
    stop: StopSignal,
) -> pathlib.Path:
    """Predicts with all runs, and writes all files. Returns the path of the page."""
    for number, compared in enumerate(runs):
        print(f'{compared.name}: {compared.place}, stage {compared.stage.name}', flush=True)
        predict_split(compared, number, store, stop)
        # The state leaves the device before the next net is loaded. Readers of checkpoints refer
        # to it in circles.
        gc.collect()

    # The class maps tell which examples are worth a picture.
    first = runs[0]
    source = first.run.open_input(first.inputs)
    comparison = compare(store, len(source), len(runs), first.classes.num_classes)
    groups = {}
    for group, indices in choose(comparison.shares, num_pictures).items():
        place = folder / 'pictures'
        groups[group] = write_group(runs, store, comparison, group, indices, place)

    # All runs score the same images, so differences are paired by image.
    images = [table_rows.image_at(source, position) for position in range(len(source))]
    paired = differences.of_runs(comparison.counts, images)

    # The page comes last: it shows the files.
    shared = scores.shared_scores(runs)
    files.write_text(folder / 'scores.csv', scores.table(runs, shared))
    content = page.page(runs, shared, comparison, paired, groups, folder)
    files.write_text(folder / page.PAGE, content)
    return folder / page.PAGE
