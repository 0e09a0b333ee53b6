"""Finds everything that a run would refuse if it started now."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax import pipelines
from segjax.core import host, parallel, paths
from segjax.data import cache, index, records
from segjax.data.builders.base import Dataset
from segjax.data.derived import Store
from segjax.data.listing import Listing
from segjax.errors import InputError
from segjax.modes.doctor.findings import Finding, SplitSummary, from_error, of_refusal, warnings
from segjax.modes.doctor.sizes import Fits, fits_anything
from segjax.modes.doctor.splits import without_labels
from segjax.protocol import Stage
from segjax.spec import IGNORE, DataSpec
from segjax.train import advice, checks, driver, features, initialization, same_run


def refusals(
    config: Any, dataset: Dataset, splits: Mapping[str, SplitSummary], workdir: str
) -> tuple[list[Finding], Fits]:
    """Finds what a run would refuse. Nothing is computed, compiled or written.

    Args:
      config: valid.
      dataset: that the config names.
      splits: the summaries of its splits, without errors.
      workdir: the run folder, '' for none.

    Returns:
      The findings, and a function that tells whether the run would accept other values.
    """
    facts = {name: index.of_facts(split.facts) for name, split in splits.items()}
    spec = data_spec(dataset, splits, facts)
    folder = pathlib.Path(workdir or 'no run folder').expanduser().absolute()

    # Without stages there is nothing more to check.
    try:
        topology = parallel.topology(config.parallel.mode, options=host.compiler_options(config))
        source = initialization.reader(config.init_from)
        config = initialization.with_preprocess(config, folder / driver.CONFIG, source)
        spec = pipelines.promised(config, {'data': spec})['data']
        stages = pipelines.make_stages(config, {'data': spec})
    except InputError as error:
        return [from_error(error)], fits_anything
    if unlabelled := without_labels(config, stages, splits):
        return unlabelled, fits_anything

    run = driver.Run(
        config, {'data': Listing(spec, dataset.where, facts)}, folder, topology, source
    )
    findings = of_refusal(cache.check_place, config.data.cache)
    if workdir:
        findings += of_refusal(paths.check_writable, '--workdir', folder)
    findings += of_refusal(same_run.check_resumed, folder, config)
    findings += of_refusal(same_run.check_data, folder, spec, stages)
    begun = initialization.has_begun(folder)
    findings += map(from_error, checks.problems(run, stages, 'train', begun))
    if findings:
        return findings, fits_anything
    findings = warnings(advice.untrained(config, stages))
    findings += _derived(config, dataset, splits, spec, stages)
    findings += _memory(config, spec, topology.count)
    return findings, functools.partial(checks.passes, run)


def data_spec(
    dataset: Dataset, splits: Mapping[str, SplitSummary], facts: Mapping[str, index.Index]
) -> DataSpec:
    """Returns the DataSpec that preparing the data set would write.

    Args:
      dataset: the data set.
      splits: the summaries of its splits.
      facts: of the examples of each split.
    """
    # The sizes of each split.
    num_classes = dataset.classes.num_classes
    num_examples = {}
    max_size = {}
    class_pixels = {}
    void_pixels = {}
    for name, split in splits.items():
        num_examples[name] = len(split.items)
        max_size[name] = tuple(np.max(list(split.sizes), axis=0).tolist())
        class_pixels[name] = tuple(split.counts[:num_classes].tolist())
        void_pixels[name] = int(split.counts[IGNORE])
    return DataSpec(
        name=dataset.name,
        classes=dataset.classes,
        features=dataset.features([item for split in splits.values() for item in split.items]),
        num_examples=num_examples,
        max_size=max_size,
        class_pixels=class_pixels,
        void_pixels=void_pixels,
        declared=dict(dataset.declared),
        **index.spec_fields(facts),
    )


def _derived(
    config: Any,
    dataset: Dataset,
    splits: Mapping[str, SplitSummary],
    spec: DataSpec,
    stages: Sequence[Stage],
) -> list[Finding]:
    """Tells which derived features are stored, and which the first training computes."""
    made = pipelines.make_features(config, {'data': spec})
    listings = {name: split.items for name, split in splits.items()}
    store = Store(records.place(dataset, listings, config.data.cache), dataset.where, made)

    # Nothing is computed here.
    inputs = [each for each in features.inputs_of(stages, 'train') if each.data == 'data']
    missing = store.missing(inputs)
    findings = []
    for feature, split in store.needed(inputs):
        message = f'stored in {store.folder(feature.name, split)}'
        if (feature, split) in missing:
            message = (
                f'not stored: computed once, for {spec.num_examples[split]:,} examples, '
                'by --mode prepare or before the first step'
            )
        where = f'derived feature {feature.name!r} of split {split!r}'
        findings.append(Finding('note', where, message, ''))
    return findings


def _memory(config: Any, spec: DataSpec, num_devices: int) -> list[Finding]:
    """Warns of an evaluation whose logits take gigabytes of a device."""
    at_label = config.evaluate.resolution == 'label'
    max_size = spec.split(config.data.eval_split).max_size
    height, width = max_size if at_label else config.data.eval_size
    gigabytes_per_image = height * width * spec.classes.num_classes * 4 / 1e9
    rows = config.evaluate.batch_size // num_devices
    gigabytes = rows * gigabytes_per_image
    if gigabytes < 4:
        return []
    message = (
        f'the logits of a batch of {height}x{width} labels take {gigabytes:.0f} GB of a device'
    )
    fewer_rows = max(1, int(3.9 / gigabytes_per_image))
    if fewer_rows != rows:
        fix = f'--config.evaluate.batch_size={fewer_rows * num_devices}'
    elif at_label:
        fix = '--config.evaluate.resolution=image, which scores at data.eval_size'
    else:
        fix = 'smaller images'
    return [Finding('warning', 'config.evaluate.batch_size', message, fix)]
