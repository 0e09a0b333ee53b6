"""README.md is run, not read.

Its commands parse and resolve, its paths exist, and its example data set works.
"""

import functools
import pathlib
import re

import cv2
import numpy as np
import pytest
import yaml
from readme import BLOCKS, LOCAL, README, REPOSITORY, commands, flag, launch, show

from segjax import config as config_lib
from segjax import main
from segjax.config import config_file
from segjax.errors import InputError
from segjax.modes import doctor


def resolve(words: list[str]):
    """The validated config of a command, its --config.key=value set; None if it names none."""
    _, assignments = config_file.split_arguments(words)
    name = flag(words, 'config')
    if name is None:
        assert not assignments
        return None
    config = config_file.load(str(REPOSITORY / name))
    config_file.assign(config, assignments)
    config_lib.validate(config)
    return config


def test_there_are_commands():
    assert len(commands()) > 8 and any(LOCAL in words for words in commands())


@pytest.mark.parametrize('words', commands(), ids=show)
def test_every_command_names_what_there_is(words):
    assert words[0] == 'bash' and (REPOSITORY / words[1]).is_file()
    resolve(words)
    ours = {item.name for item in main.FLAGS} | {'dry-run', 'help'}
    if words[1] == LOCAL:
        given = {
            w[2:].partition('=')[0]
            for w in words
            if w.startswith('--') and not w.startswith('--config.')
        }
        assert given <= ours, given - ours
        mode = flag(words, 'mode')
        assert mode is None or mode in main.MODES


@pytest.mark.parametrize('words', [w for w in commands() if w[1] != 'launch/test.sh'], ids=show)
def test_every_command_passes_as_a_dry_run(words):
    done = launch(words, *([] if {'--dry-run', '--help'} & set(words) else ['--dry-run']))
    assert done.returncode == 0, done.stderr
    assert done.stdout
    if words[1] == LOCAL:
        assert '-m segjax.main' in done.stdout


def test_the_test_script_passes_as_a_dry_run():
    done = launch(['bash', 'launch/test.sh', '--dry-run'])
    assert done.returncode == 0, done.stderr
    for step in ('ruff check', 'ruff format', 'pytest'):
        assert step in done.stdout


def paths_in_text():
    text = re.sub(r'^```.*?^```$', '', README, flags=re.MULTILINE | re.DOTALL)
    quoted = re.findall(r'`((?:segjax|configs|tests|docs|launch)/[\w./]*)`', text)
    return sorted(
        {*quoted, *re.findall(r'\]\(((?!http)[^)]+)\)', text)} - {'segjax/pipelines/mine.py'}
    )


@pytest.mark.parametrize('path', paths_in_text())
def test_paths_exist(path):
    assert (REPOSITORY / path).exists()


def test_the_table_of_pipelines_says_what_is_here():
    from segjax import pipelines

    rows = re.findall(r'^\| `(\w+)` \|.*\| (available|planned) \|$', README, re.MULTILINE)
    assert {name for name, status in rows if status == 'available'} == set(pipelines.REGISTRY)


def test_the_table_of_modes_says_what_is_here():
    assert set(re.findall(r'^\| `--mode (\w+)', README, re.MULTILINE)) == set(main.MODES)


RESULTS = REPOSITORY / 'docs/results'
RUNS = re.findall(
    r'^\| \[`\w+`\]\((\w+\.md)\)[^|]*\|[^|]*\|[^|]*\| ([^|]+) \| ([^|]+) \| ([^|]*)\|$',
    (RESULTS / 'README.md').read_text(),
    re.MULTILINE,
)
"""(file, ours, compared with, published) of the rows of the table of runs."""


@pytest.mark.parametrize('row', RUNS, ids=lambda row: row[0])
def test_the_measured_scores_are_in_the_results(row):
    file, *cells = row
    text = (RESULTS / file).read_text().replace('+-', '±')
    results = ''.join(path.read_text() for path in RESULTS.glob('*.md'))
    ours, compared, published = (re.findall(r'[\d.]+\d(?: ± [\d.]+\d)?', cell) for cell in cells)
    assert ours and compared
    assert all(number in text for number in ours + compared)
    assert all(number in results for number in published)


def links_of_results():
    text = (RESULTS / 'README.md').read_text()
    return sorted(set(re.findall(r'\]\(([^)]+)\)', text)))


@pytest.mark.parametrize('link', links_of_results())
def test_the_page_of_results_links_to_files(link):
    assert (RESULTS / link).exists()


def test_every_page_of_results_is_linked():
    pages = {path.name for path in RESULTS.glob('*.md')} - {'README.md'}
    assert pages == {link for link in links_of_results() if link.endswith('.md')}


def test_there_is_a_row_of_scores_for_every_pipeline():
    from segjax import pipelines

    assert len(RUNS) == len(pipelines.REGISTRY)


def test_the_picture_is_small():
    (path,) = re.findall(r'^!\[[^]]+\]\((docs/\w+\.png)\)$', README, re.MULTILINE)
    assert 10_000 < (REPOSITORY / path).stat().st_size < 200_000


def test_the_lines_of_python_run(monkeypatch):
    """The lines build a net with fewer blocks. examples/net.py builds the whole net."""
    import jax
    import jax.numpy as jnp

    import segjax

    few_blocks = functools.partial(segjax.models.build, blocks=(1, 1, 0, 0))
    monkeypatch.setattr(segjax.models, 'build', few_blocks)
    (body,) = [body for language, body in BLOCKS if language == 'python']
    names = {'jax': jax, 'segjax': segjax, 'image': jnp.zeros((1, 16, 32, 3))}
    names |= {'label': jnp.zeros((1, 16, 32), int), 'weight': jnp.ones(1)}
    exec(body, names)
    assert names['logits'].shape == (1, 16, 32, 19)
    assert names['loss'] > 0


def test_the_parameter_count_is_that_of_the_net():
    import jax
    import jax.numpy as jnp

    from segjax import models

    count, classes = re.search(r'ERFNet \(([\d,]+) parameters at (\d+) classes', README).groups()
    model = models.build(
        'segmentation',
        'erfnet',
        num_classes=int(classes),
        dtype='float32',
        axis_name=None,
        encoder_head=True,
    )
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 128, 3)), train=False)
    )
    assert sum(x.size for x in jax.tree.leaves(shapes['params'])) == int(count.replace(',', ''))


# --- your own images and labels -------------------------------------------------------------------


def own_data(root: pathlib.Path, splits=('train', 'val')) -> pathlib.Path:
    """Writes the data set of the README.

    Folders and names are from the layout there. The class file is the same to the letter.
    """
    layout = next(body for _, body in BLOCKS if 'mine/images/train' in body)
    (classes,) = [body for language, body in BLOCKS if language == 'yaml']
    image, mask = re.findall(r'mine/(\w+)/train/0001(\.\w+)', layout)
    draw = np.random.default_rng(0)
    for split in splits:
        for number in range(1, 13):
            name = pathlib.Path(split) / f'{number:04}' if split else pathlib.Path(f'{number:04}')
            for (folder, extension), shape, high in (
                (image, (64, 96, 3), 256),
                (mask, (64, 96), 3),
            ):
                path = root / 'mine' / folder / name.with_suffix(extension)
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = draw.integers(0, high, shape).astype(np.uint8)
                cv2.imwrite(str(path), pixels)
    (root / 'mine/classes.yaml').write_text(classes)
    return root


def own_config(root):
    words = next(words for words in commands() if flag(words, 'mode') == 'doctor')
    config = resolve(words)
    config.data.root = str(root / config.data.root)
    config.data.classes = str(root / config.data.classes)
    config.model.blocks = (1, 1, 0, 0)
    return config


@pytest.mark.usefixtures('one_device')
@pytest.mark.parametrize('splits', [('train', 'val'), ('',)], ids=['with splits', 'without'])
def test_the_example_data_set_works(tmp_path, capsys, splits):
    from segjax import data

    config = own_config(own_data(tmp_path, splits))
    assert doctor.main(config) == 0, capsys.readouterr().out
    spec = data.prepare(config.data).spec
    assert spec.classes.names == ('background', 'road', 'car') and spec.classes.ids == (0, 1, 2)
    assert set(spec.num_examples) == {'train', 'val'} and sum(
        spec.num_examples.values()
    ) == 12 * len(splits)
    assert min(min(pixels) for pixels in spec.class_pixels.values()) > 0


def test_the_long_form_of_a_class_in_the_example_works(tmp_path):
    (comment,) = re.findall(r'or entries (\{.*?\]\})', README)
    own_data(tmp_path)
    path = tmp_path / 'mine/classes.yaml'
    content = yaml.safe_load(path.read_text())
    path.write_text(
        yaml.safe_dump({**content, 'classes': [*content['classes'][:2], yaml.safe_load(comment)]})
    )
    from segjax.data.labels import load_class_file

    classes = load_class_file(path).classes
    assert (classes.names[2], classes.ids[2], classes.palette[2]) == ('car', 7, (0, 0, 142))


def spoil_masks(change):
    def spoil(root):
        for path in (root / 'mine/masks').rglob('*.png'):
            cv2.imwrite(str(path), change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))

    return spoil


def one_file(change, folder='masks'):
    def spoil(root):
        change(sorted((root / 'mine' / folder / 'train').iterdir())[0])

    return spoil


# What the README says that doctor finds, in its order.
MISTAKES = {
    'images without masks': (one_file(pathlib.Path.unlink), 'without a label'),
    'masks of another size': (
        one_file(lambda p: cv2.imwrite(str(p), np.zeros((64, 64), np.uint8))),
        '64x64 pixels',
    ),
    '0/255 masks': (spoil_masks(lambda m: np.where(m > 0, 255, 0).astype(np.uint8)), '0/255 mask'),
    'ids one too high': (spoil_masks(lambda m: m + 1), 'start at 1'),
    'colour masks': (spoil_masks(lambda m: np.stack([m, m * 0, m * 9], -1)), 'three channels'),
    'truncated files': (one_file(lambda p: p.write_bytes(p.read_bytes()[:-20])), 'truncated'),
    'classes that never occur': (spoil_masks(lambda m: np.minimum(m, 1)), 'never seen'),
}


def test_the_list_of_mistakes_is_that_of_the_readme():
    listed = re.search(r'`doctor` finds the most common mistakes: (.*?)\.', README, re.DOTALL)[1]
    assert listed.replace('\n', ' ').split(', ') == list(MISTAKES)


@pytest.mark.usefixtures('one_device')
@pytest.mark.parametrize('mistake', MISTAKES)
def test_doctor_finds_what_the_readme_says(tmp_path, capsys, mistake):
    spoil, message = MISTAKES[mistake]
    spoil(own_data(tmp_path))
    code = doctor.main(own_config(tmp_path))
    out = capsys.readouterr().out
    assert message in out, out
    assert code == (0 if mistake == 'classes that never occur' else 1)
    if mistake != 'classes that never occur':
        assert str(tmp_path / 'mine/masks') in out or str(tmp_path / 'mine/images') in out
        assert 'fix: ' in out


def test_an_unknown_key_is_an_error_as_promised():
    with pytest.raises(InputError, match="did you mean 'learning_rate'"):
        resolve(['--config', 'configs/supervised.py:quick', '--config.optim.learning_rat=1'])
