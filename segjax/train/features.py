"""The derived features of a run, which are computed before it begins if a stage reads them."""

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import ml_collections

from segjax import pipelines
from segjax.core import host
from segjax.data import Prepared, computation, table_rows
from segjax.data.derived import check_read, names_read
from segjax.data.view import View
from segjax.errors import unknown_name
from segjax.protocol import Input, Stage
from segjax.train import initialization
from segjax.train.stored import CONFIG


def promised(
    config: ml_collections.ConfigDict, datasets: Mapping[str, Prepared]
) -> dict[str, Prepared]:
    """Returns data sets with the derived features of `config.pipeline`, computed or not.

    Args:
      config: valid.
      datasets: by config section.
    """
    specs = {section: data.spec for section, data in datasets.items()}
    features = pipelines.make_features(config, specs)
    if not features:
        return dict(datasets)
    changed = {}
    for section, spec in pipelines.promised(config, specs).items():
        own = tuple(feature for feature in features if feature.data == section)
        changed[section] = datasets[section]._replace(spec=spec, derived=own)
    return changed


def inputs_of(stages: Iterable[Stage], use: str) -> list[Input]:
    """Returns the inputs that stages read, with unpaired inputs.

    Args:
      stages: of a run.
      use: 'train' or 'evaluate'.
    """
    inputs: list[Input] = []
    for stage in stages:
        own = stage.all_inputs
        inputs += own if use == 'train' else own[len(stage.training_inputs) :]
    return inputs


def in_records(view: View, section: str, inputs: Iterable[Input]) -> list[Input]:
    """Returns the inputs of a data set, with splits of the records in place of lists.

    Args:
      view: the data set as its config section sees it.
      section: its config section.
      inputs: of all data sets.
    """
    own = [each for each in inputs if each.data == section]
    return [each._replace(split=view.in_records(each.split).split) for each in own]


def make(
    config: ml_collections.ConfigDict,
    datasets: Mapping[str, Prepared],
    inputs: Sequence[Input],
    check_stop: Callable[[], None],
) -> list[pathlib.Path]:
    """Computes the derived features that inputs read. Returns the folders of their values.

    Args:
      config: `data.workers` is the number of worker processes. 0: one for each core.
      datasets: by config section, from `promised`.
      inputs: of the stages.
      check_stop: called between examples. It raises an exception to stop.
    """
    num_workers = config.data.workers or host.cores()
    folders = []
    for section, data in datasets.items():
        own = in_records(data.view, section, inputs)
        folders += computation.make(data.store, own, num_workers, check_stop)
    return folders


def prepare(
    config: ml_collections.ConfigDict,
    datasets: Mapping[str, Prepared],
    check_stop: Callable[[], None],
) -> list[pathlib.Path]:
    """Computes the derived features that a training of a config reads, without a run.

    Args:
      config: valid.
      datasets: by config section.
      check_stop: as in `make`.

    Returns:
      The folders of the values.

    Raises:
      InputError: the refusal, or an unknown split or feature of an input, or an error of
        `computation.make`.
    """
    if not pipelines.has_features(config):
        return []
    # Published weights decide how images are prepared, which a feature may depend on.
    source = initialization.reader(config.init_from)
    no_run = pathlib.Path('no run folder') / CONFIG
    config = initialization.with_preprocess(config, no_run, source)
    datasets = promised(config, datasets)
    specs = {section: data.spec for section, data in datasets.items()}
    stages = pipelines.make_stages(config, specs)

    # An unknown split or feature is refused before anything is computed.
    inputs = inputs_of(stages, 'train')
    for each in inputs:
        if each.refusal is not None:
            raise each.refusal
        if each.data not in datasets:
            raise unknown_name('data set of an input', each.data, datasets)
        data = datasets[each.data]
        table_rows.check(each, data.spec, data.where)
        check_read(each, data.derived, data.where)
        data.open_split(each.split, names_read(each))
    return make(config, datasets, inputs, check_stop)
