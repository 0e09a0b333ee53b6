"""Finds everything that a run would refuse if it started now."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from segjax import pipelines
from segjax.core import host, parallel, paths
from segjax.data import cache, loader, records
from segjax.data.derived import Store
from segjax.data.listing import Listing
from segjax.data.table_rows import Rows
from segjax.errors import InputError
from segjax.modes.doctor.examined import Examined
from segjax.modes.doctor.findings import Finding, from_error, of_refusal, warnings
from segjax.modes.doctor.sizes import Fits, fits_anything
from segjax.modes.doctor.splits import without_labels
from segjax.protocol import Input, Stage
from segjax.spec import DataSpec, split_names
from segjax.train import advice, checks, data_sets, driver, features, initialization, same_run


class Refusals(NamedTuple):
    """Everything that a run would refuse.

    findings     refusals, or notes and warnings if there is none
    fits         whether the run would accept other values
    num_rows     rows of a table that `train.batch_size` examples are taken from, 0 if the table is
                 not computed. None: the examples are images
    sees_images  whether a stage is evaluated on whole images. Otherwise all stages cut parts out
    """

    findings: list[Finding]
    fits: Fits = fits_anything
    num_rows: int | None = None
    sees_images: bool = True


def refusals(config: Any, examined: Mapping[str, Examined], workdir: str) -> Refusals:
    """Finds what a run would refuse. Nothing is computed, compiled or written.

    Args:
      config: valid.
      examined: the data sets by config section, without errors.
      workdir: the run folder, '' for none.
    """
    folder = pathlib.Path(workdir or 'no run folder').expanduser().absolute()
    specs = {}
    for name, data in examined.items():
        specs[name] = data_sets.with_parts(data.spec, data.view, config)
    specs = same_run.with_stored_parts(folder, specs)

    # Without stages there is nothing more to check.
    try:
        topology = parallel.topology(config.parallel.mode, options=host.compiler_options(config))
        source = initialization.reader(config.init_from)
        sources = initialization.open_net_sources(config.init_from)
        config = initialization.with_preprocess(config, folder / driver.CONFIG, source)
        specs = pipelines.promised(config, specs)
        stages = pipelines.make_stages(config, specs)
    except InputError as error:
        return Refusals([from_error(error)])
    splits = {name: data.splits for name, data in examined.items()}
    sees_images = _sees_images(stages)
    if unlabelled := without_labels(config, stages, splits):
        return Refusals(unlabelled, sees_images=sees_images)

    listings = {}
    for name, data in examined.items():
        listings[name] = Listing(specs[name], data.where, data.view)
    run = driver.Run(config, listings, folder, topology, source, sources)
    findings = of_refusal(cache.check_place, config.data.cache)
    if workdir:
        findings += of_refusal(paths.check_writable, '--workdir', folder)
    findings += of_refusal(same_run.check_resumed, folder, config)
    findings += of_refusal(same_run.check_data, folder, specs, stages)
    begun = initialization.has_begun(folder)
    findings += map(from_error, checks.problems(run, stages, 'train', begun))
    if findings:
        return Refusals(findings, sees_images=sees_images)
    findings = warnings(advice.untrained(config, stages))
    stores = _stores(config, examined, specs, stages)
    for name, store in stores.items():
        findings += _derived(name, examined[name], store, stages)
    counted = [_counted(run, stores, *each) for each in _inputs_of_rows(stages)]
    findings += _rows(counted)
    findings += _memory(config, specs['data'])
    num_rows = _num_rows(config, stages, counted)
    return Refusals(findings, functools.partial(checks.passes, run), num_rows, sees_images)


def _sees_images(stages: Sequence[Stage]) -> bool:
    """Returns whether a stage is evaluated on whole images of the main data set."""
    for stage in stages:
        inputs = stage.eval_input
        if inputs.data == 'data' and inputs.resize and not inputs.each:
            return True
    return False


def _stores(
    config: Any,
    examined: Mapping[str, Examined],
    specs: Mapping[str, DataSpec],
    stages: Sequence[Stage],
) -> dict[str, Store]:
    """Returns the places of the data sets that have derived features or tables.

    Args:
      config: valid.
      examined: the data sets by config section.
      specs: by config section.
      stages: of the run.
    """
    every = pipelines.make_features(config, specs)
    with_table = {inputs.data for inputs, _ in _inputs_of_rows(stages)}
    stores = {}
    for section, data in examined.items():
        made = tuple(each for each in every if each.data == section)
        if not made and section not in with_table:
            continue
        listings = {name: data.splits[name].items for name in data.view.counts}
        place = records.place(data.dataset, listings, config.data.cache)
        stores[section] = Store(place, data.dataset.where, made, data.view.class_map)
    return stores


def _derived(
    section: str, examined: Examined, store: Store, stages: Sequence[Stage]
) -> list[Finding]:
    """Tells which derived features are stored, and which the first training computes.

    Args:
      section: config section of the data set.
      examined: the data set.
      store: the places of its values.
      stages: of the run.
    """
    # Nothing is computed here.
    inputs = features.in_records(examined.view, section, features.inputs_of(stages, 'train'))
    missing = store.missing(inputs)
    findings = []
    for feature, split in store.needed(inputs):
        message = f'stored in {store.folder(feature.name, split)}'
        if (feature, split) in missing:
            message = (
                f'not stored: computed once, for {examined.view.counts[split]:,} examples, '
                'by --mode prepare or before the first step'
            )
        where = f'derived feature {feature.name!r} of split {split!r}'
        findings.append(Finding('note', where, message, ''))
    return findings


# --- rows of a table ------------------------------------------------------------------------------


class Counted(NamedTuple):
    """An input whose examples are rows.

    inputs  with a table
    trains  whether a stage trains on them
    source  images and rows. None: the table is not computed, or a stage chooses the images
    """

    inputs: Input
    trains: bool
    source: Rows | None


def _inputs_of_rows(stages: Sequence[Stage]) -> list[tuple[Input, bool]]:
    """Returns the inputs with a table, and whether a stage trains on them."""
    found = []
    for stage in stages:
        for number, inputs in enumerate(stage.all_inputs):
            if inputs.each:
                found.append((inputs, number < len(stage.training_inputs)))
    return found


def _counted(run: driver.Run, stores: Mapping[str, Store], inputs: Input, trains: bool) -> Counted:
    """Reads the table of an input if it is computed.

    Args:
      run: on listings.
      stores: the places of the values, by config section.
      inputs: with a table.
      trains: whether a stage trains on them.
    """
    if inputs.chosen is not None:
        return Counted(inputs, trains, None)
    store = stores[inputs.data]
    split, positions = run.data_of(inputs).view.choose(inputs)
    for name in split_names(split):
        if not records.is_ready(store.place(inputs.each, name)):
            return Counted(inputs, trains, None)
    read = functools.partial(store.column, split, inputs.each, positions)
    return Counted(inputs, trains, Rows(run.open_input(inputs), read))


def _rows(counted: Sequence[Counted]) -> list[Finding]:
    """Tells the numbers of rows, and finds inputs without a row."""
    findings = {}
    for inputs, trains, source in counted:
        section = '' if inputs.data == 'data' else f' of {inputs.data}'
        where = f'rows of {inputs.each!r} of split {inputs.split!r}{section}'
        message = 'not counted: the table is not computed'
        if inputs.chosen is not None:
            message = f'not counted: stage {inputs.chosen.stage!r} chooses the images'
        if source is not None:
            message = f'{len(source):,} examples in {len(source.images):,} images'
            for refusal in of_refusal(loader.check_examples, source, inputs, trains):
                findings[refusal.where] = refusal
        findings[where] = Finding('note', where, message, '')
    return list(findings.values())


def _num_rows(config: Any, stages: Sequence[Stage], counted: Sequence[Counted]) -> int | None:
    """Returns `Refusals.num_rows`, of several stages the smallest number.

    Args:
      config: valid.
      stages: of the run.
      counted: the inputs with a table.
    """

    def is_main(inputs: Input) -> bool:
        main = ('data', config.data.train_split, 'train.batch_size')
        return (inputs.data, inputs.split, inputs.batch_key) == main

    # A stage that trains on whole images repeats images.
    for stage in stages:
        if any(is_main(inputs) and not inputs.each for inputs in stage.training_inputs):
            return None
    main = [each for each in counted if each.trains and is_main(each.inputs)]
    numbers = [0 if each.source is None else len(each.source) for each in main]
    return min(numbers) if numbers else None


# --- memory ---------------------------------------------------------------------------------------


def _memory(config: Any, spec: DataSpec) -> list[Finding]:
    """Warns of evaluation images whose logits take gigabytes of a device.

    Logits at the size of the labels never exist for all classes at once, and the logits of large
    images are computed image by image.
    """
    height, width = config.data.eval_size
    gigabytes = height * width * spec.classes.num_classes * 4 / 1e9
    if gigabytes < 4:
        return []
    message = f'the logits of an image of {height}x{width} take {gigabytes:.0f} GB of a device'
    smaller = (max(1, height // 2), max(1, width // 2))
    return [
        Finding(
            'warning',
            'config.data.eval_size',
            message,
            f'smaller images, as --config.data.eval_size="{smaller}"',
        )
    ]
