"""Wrong values for every key of every pipeline are accepted, or the error names that key."""

import shlex

import pytest

from segjax import config as config_lib
from segjax import pipelines, schema
from segjax.config import config_file, tree, validation
from segjax.errors import InputError
from segjax.metrics import confusion

NAN, INF, HUGE = float('nan'), float('inf'), 10**50
SINGLE = ('a', '', -1, 0, 1, 2.5, NAN, INF, -INF, 1e30, 1e300, HUGE, True, None, {}, [1])
PAIRS = ((1, 2), ('a', 'b'), (NAN, 1.0), (HUGE, HUGE), (True, True), ((), ()))
NESTED = (
    ((1,),),
    (('a',),),
    (('a', 'b'),),
    (('a', 1), ('b',)),
    ((1, 2, 3),),
    (('a', 1, 'b'),),
    (('(', 1.0),),
)
VALUES = (*SINGLE, *PAIRS, *NESTED, (), (1,), ('a',), ('(',), (None,), ({},), (('.*', NAN),))


def keys_of(pipeline):
    """Returns [(config.section.key, Field)] of a pipeline with its default nets."""
    config = config_lib.defaults(pipeline)
    return [
        (where, field)
        for where, field, _ in validation.walk(config_lib.schema_of(pipeline), config, '')
    ]


def section_of(config, where):
    """Returns (section, name) of a key."""
    *sections, last = where.split('.')[1:]
    for name in sections:
        config = config[name]
    return config, last


def with_value(config, where, value):
    """Returns a copy with a changed value."""
    changed = config.copy_and_resolve_references()
    section, name = section_of(changed, where)
    section[name] = value
    return changed


def changes(pipeline, values):
    """Yields (config, key, value) for all keys and values whose type the config takes.

    It is one config, which has the other value until the next is asked for: copies take long.
    """
    config = config_lib.defaults(pipeline).copy_and_resolve_references()
    config.unlock()
    for where, _ in keys_of(pipeline):
        section, name = section_of(config, where)
        default = section[name]
        for value in values:
            try:
                section[name] = value
            except TypeError:
                continue
            yield config, where, value
            with section.ignore_type():
                section[name] = default
    config.lock()
    assert config == config_lib.defaults(pipeline)


@pytest.mark.parametrize('pipeline', pipelines.REGISTRY)
def test_a_wrong_value_names_its_own_key(pipeline):
    problems = []
    for config, where, value in changes(pipeline, VALUES):
        try:
            config_lib.validate(config)
        except InputError as error:
            if error.where != where:
                problems.append((where, value, error.where))
        except Exception as error:
            problems.append((where, value, repr(error)))
    assert not problems, problems[:10]


@pytest.mark.parametrize('pipeline', pipelines.REGISTRY)
def test_no_key_takes_a_number_that_the_device_cannot_hold(pipeline):
    taken = []
    for config, where, value in changes(
        pipeline, (NAN, INF, 1e300, HUGE, (NAN, 1.0), (HUGE, HUGE))
    ):
        try:
            config_lib.validate(config)
        except InputError:
            continue
        taken.append((where, value))
    assert not taken


@pytest.mark.parametrize('pipeline', pipelines.REGISTRY)
def test_the_fix_of_every_key_can_be_typed(pipeline):
    for where, field in keys_of(pipeline):
        if where == 'config.pipeline':
            continue
        config = config_lib.defaults(pipeline)
        default = config
        for name in where.split('.')[1:]:
            default = default[name]
        field = field._replace(default=default)
        fix = validation.right_argument(where, field, '')
        _, assignments = config_file.split_arguments(shlex.split(fix))
        config_file.assign(config, assignments)
        assert config == config_lib.defaults(pipeline), where


@pytest.mark.parametrize(
    'key, value',
    [
        ('augment.scale', '("a","b")'),
        ('augment.crop', '(True,True)'),
        ('optim.factors', '(1,2)'),
        ('optim.factors', '(("a","b"),)'),
        ('predict.scales', '("a",)'),
        ('predict.scales', '()'),
        ('predict.scales', '(0,)'),
        ('model.dropout', '("a",)'),
        ('model.dropout', '(0.1,)'),
        ('model.width', '-1'),
        ('model.width', 'nan'),
        ('train.num_steps', str(HUGE)),
        ('optim.learning_rate', 'inf'),
    ],
)
def test_wrong_values_as_they_are_typed(key, value):
    config = config_lib.defaults('supervised')
    with pytest.raises(InputError) as error:
        config_file.overridden(config, f'{key}={value}')
    assert error.value.where == f'config.{key}'


@pytest.mark.parametrize(
    'pipeline, key, value, right',
    [
        ('supervised', 'optim.name', 'adan', 'adam'),
        ('supervised', 'optim.name', 'x', 'adam'),
        ('supervised', 'optim.eps', 0.0, '1e-08'),
        ('supervised', 'augment.scale', (2, 1), "'(1.0, 1.0)'"),
        ('scene_geometry', 'geometry.weight', -1.0, '1.0'),
        ('noise_cyclegan', 'noise.name', 'gausian', 'gaussian'),
        ('noise_cyclegan', 'probes', (1,), "\"('none', 'max_only', 'quantize:4', "),
    ],
)
def test_an_error_has_the_meaning_of_the_key_and_a_fix_that_works(pipeline, key, value, right):
    config = config_lib.defaults(pipeline)
    wrong = with_value(config, f'config.{key}', value)
    with pytest.raises(InputError) as error:
        config_lib.validate(wrong)
    meaning = tree.field_at(config, key.split('.')).doc
    assert error.value.meaning == meaning and f'\n  meaning:  {meaning}\n' in str(error.value)
    assert meaning not in error.value.expected
    assert error.value.fix.startswith(f'--config.{key}={right}')
    _, assignments = config_file.split_arguments(shlex.split(error.value.fix))
    config_file.assign(wrong, assignments)
    config_lib.validate(wrong)


@pytest.mark.parametrize('key', ['train.batch_size', 'augment.crop', 'optim.nesterov', 'seed'])
def test_a_value_of_another_type_is_answered_by_meaning_and_present_value(key):
    config = config_lib.defaults('supervised')
    with pytest.raises(InputError) as error:
        config_file.assign(config, [config_file.Assignment(key, 'x')])
    assert error.value.meaning == tree.field_at(config, key.split('.')).doc
    _, assignments = config_file.split_arguments(shlex.split(error.value.fix))
    config_file.assign(config, assignments)
    assert config == config_lib.defaults('supervised')


def test_policies_are_those_of_the_metrics():
    assert set(schema.POLICIES) == set(confusion.POLICIES)


def test_arguments_of_nets_whose_default_is_empty_take_their_own_kind():
    config = config_lib.defaults('supervised')
    config_lib.choose(config, 'model', 'bisenet')
    assert config_file.overridden(config, 'model.head_channels=(64,64,64)').model.head_channels == (
        64,
        64,
        64,
    )
    assert config_file.overridden(config, 'model.taps=("a",)').model.taps == ('a',)
    with pytest.raises(InputError, match='strings'):
        config_file.overridden(config, 'model.taps=(1,)')


@pytest.mark.parametrize(
    'assignment',
    [
        'boxes.classes=("car", "bus", "car")',
        'shapes.classes=("car", "bus", "car")',
        'shapes.transformations=("flip", "rotation", "flip")',
    ],
)
def test_a_name_that_is_listed_twice_is_refused(assignment):
    config = config_lib.defaults('semantic_inpainting')
    with pytest.raises(InputError, match='once'):
        config_file.overridden(config, assignment)
    config_file.overridden(config, assignment.rpartition(',')[0] + ')')


def test_a_default_below_0_is_the_smallest_argument_of_a_net():
    check = schema.argument_of_net('dropout', -1.0)
    assert check(-1.0) is None and check(0.5) is None and check(-1.5) == 'a number >= -1.0'
    assert schema.argument_of_net('dropout', 0.0)(-1.0) == 'a number >= 0'
