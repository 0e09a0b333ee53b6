"""The registry of pipelines. Each paper is one file, and `config.pipeline` is its name."""

import importlib
from collections.abc import Mapping
from types import ModuleType

import ml_collections

from segjax.errors import unknown_name
from segjax.protocol import Derived, Stage
from segjax.spec import DataSpec

REGISTRY = {
    'conditional_gan': 'segjax.pipelines.conditional_gan',
    'dense_features': 'segjax.pipelines.dense_features',
    'dropout_codes': 'segjax.pipelines.dropout_codes',
    'label_to_image': 'segjax.pipelines.label_to_image',
    'learned_dilation': 'segjax.pipelines.learned_dilation',
    'membership': 'segjax.pipelines.membership',
    'monocular_normals': 'segjax.pipelines.monocular_normals',
    'noise_cyclegan': 'segjax.pipelines.noise_cyclegan',
    'pixel_neighbours': 'segjax.pipelines.pixel_neighbours',
    'scene_geometry': 'segjax.pipelines.scene_geometry',
    'semantic_inpainting': 'segjax.pipelines.semantic_inpainting',
    'shape_classifier': 'segjax.pipelines.shape_classifier',
    'std2p': 'segjax.pipelines.std2p',
    'supervised': 'segjax.pipelines.supervised',
}


def load(name: str) -> ModuleType:
    """Returns the module of a pipeline, which exports make_stages(config, spec) and SCHEMA.

    Raises:
      InputError: unknown name, with the nearest name that exists.
    """
    if name not in REGISTRY:
        raise unknown_name('config.pipeline', name, REGISTRY)
    return importlib.import_module(REGISTRY[name])


def make_stages(
    config: ml_collections.ConfigDict, specs: Mapping[str, DataSpec]
) -> tuple[Stage, ...]:
    """Returns the stages of `config.pipeline`.

    Args:
      config: valid.
      specs: by config section: the data sets of the run. 'data' is the main data set. Derived
        features are added, or replaced.

    Raises:
      InputError: of the pipeline, or a stage that reads labels of a data set without classes.
    """
    main, further = _main_and_further(promised(config, specs))
    stages = load(config.pipeline).make_stages(config, main, **further)
    for stage in stages:
        for inputs in stage.all_inputs:
            reads_labels = inputs.examples == 'labelled' or 'label' in inputs.stored
            if reads_labels and inputs.data in specs:
                specs[inputs.data].check_labels(f'stage {stage.name!r}', inputs.data)
    return stages


def make_features(
    config: ml_collections.ConfigDict, specs: Mapping[str, DataSpec]
) -> tuple[Derived, ...]:
    """Returns the features that `config.pipeline` derives from the records, () for most pipelines.

    Args:
      config: valid.
      specs: by config section: the data sets of the run. The pipeline gets them without derived
        features.
    """
    if not has_features(config):
        return ()
    from segjax.data import derived  # slow to import, and most modes need no data

    plain = {section: derived.without_derived(spec) for section, spec in specs.items()}
    main, further = _main_and_further(plain)
    return load(config.pipeline).make_features(config, main, **further)


def has_features(config: ml_collections.ConfigDict) -> bool:
    """Returns whether `config.pipeline` has a function `make_features`."""
    return hasattr(load(config.pipeline), 'make_features')


def promised(
    config: ml_collections.ConfigDict, specs: Mapping[str, DataSpec]
) -> dict[str, DataSpec]:
    """Returns data sets with the derived features of `config.pipeline`, computed or not.

    Args:
      config: valid.
      specs: by config section. Derived features of another config are replaced.

    Raises:
      InputError: a derived feature that contradicts its data set, or of an unknown section.
    """
    if not has_features(config):
        return dict(specs)
    from segjax.data import derived  # slow to import, and most modes need no data

    features = make_features(config, specs)
    for feature in features:
        if feature.data not in specs:
            raise unknown_name(f'data of derived feature {feature.name!r}', feature.data, specs)
    changed = {}
    for section, spec in specs.items():
        own = [feature for feature in features if feature.data == section]
        changed[section] = derived.promised(spec, own)
    return changed


def _main_and_further(specs: Mapping[str, DataSpec]) -> tuple[DataSpec, dict[str, DataSpec]]:
    """Returns the main data set, and the remaining data sets by config section."""
    return specs['data'], {name: spec for name, spec in specs.items() if name != 'data'}
