"""Finds everything that a run would refuse if it started now."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from segjax import pipelines
from segjax.core import host, parallel, paths
from segjax.data import cache, records
from segjax.data.derived import Store
from segjax.data.listing import Listing
from segjax.errors import InputError
from segjax.modes.doctor.examined import Examined
from segjax.modes.doctor.findings import Finding, from_error, of_refusal, warnings
from segjax.modes.doctor.sizes import Fits, fits_anything
from segjax.modes.doctor.splits import without_labels
from segjax.protocol import Stage
from segjax.spec import DataSpec
from segjax.train import advice, checks, data_sets, driver, features, initialization, same_run


def refusals(
    config: Any, examined: Mapping[str, Examined], workdir: str
) -> tuple[list[Finding], Fits]:
    """Finds what a run would refuse. Nothing is computed, compiled or written.

    Args:
      config: valid.
      examined: the data sets by config section, without errors.
      workdir: the run folder, '' for none.

    Returns:
      The findings, and a function that tells whether the run would accept other values.
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
        return [from_error(error)], fits_anything
    splits = {name: data.splits for name, data in examined.items()}
    if unlabelled := without_labels(config, stages, splits):
        return unlabelled, fits_anything

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
        return findings, fits_anything
    findings = warnings(advice.untrained(config, stages))
    for name in examined:
        findings += _derived(config, name, examined[name], specs, stages)
    findings += _memory(config, specs['data'])
    return findings, functools.partial(checks.passes, run)


def _derived(
    config: Any,
    section: str,
    examined: Examined,
    specs: Mapping[str, DataSpec],
    stages: Sequence[Stage],
) -> list[Finding]:
    """Tells which derived features are stored, and which the first training computes.

    Args:
      config: valid.
      section: config section of the data set.
      examined: the data set.
      specs: by config section.
      stages: of the run.
    """
    made = [each for each in pipelines.make_features(config, specs) if each.data == section]
    if not made:
        return []
    dataset = examined.dataset
    listings = {name: examined.splits[name].items for name in examined.view.counts}
    place = records.place(dataset, listings, config.data.cache)
    store = Store(place, dataset.where, tuple(made), examined.view.class_map)

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
