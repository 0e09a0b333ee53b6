"""--mode compare: the page, its scores and its pictures, and the runs that it refuses."""

import csv
import dataclasses
import json
import shutil
import types

import cv2
import jax
import numpy as np
import pytest
from absl import flags

from segjax import config as config_lib
from segjax import main
from segjax.config.config_file import Assignment
from segjax.core import files
from segjax.errors import InputError
from segjax.modes import compare
from segjax.modes.compare import labels, page, runs
from segjax.modes.compare.scores import best
from segjax.modes.table import Row
from segjax.modes.table import plan as table_plan
from segjax.modes.table import runs as table_runs
from segjax.protocol import DrawnFrames, Product
from segjax.train import driver
from segjax.train.stop import Preempted, StopSignal

WHITE, RED, CYAN, BLACK = (255, 255, 255), (255, 0, 0), (0, 255, 255), (0, 0, 0)


def compared(output, *folders, names='', stage='', count=4, assignments=()):
    text = ','.join(map(str, folders))
    return compare.main(text, names, stage, str(output), count, assignments)


def read_png(path):
    return cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1]


@pytest.fixture(scope='module')
def output(narrow, wide, learned, tmp_path_factory):
    """Returns the folder of a comparison of three runs of two pipelines."""
    folder = tmp_path_factory.mktemp('compare') / 'out'
    path = compared(folder, narrow, wide, learned, names='A,<B>,C')
    assert path == folder / 'compare.html'
    return folder


# --- pictures -------------------------------------------------------------------------------------


def infos(output):
    return {path.parent: json.loads(path.read_text()) for path in output.rglob('info.json')}


def test_files_of_a_comparison(output):
    names = {path.name for path in output.iterdir()}
    assert names == {'compare.html', 'scores.csv', 'pictures'}, 'no class maps are left'
    groups = sorted(path.name for path in (output / 'pictures').iterdir())
    assert groups == [
        'disagreement.png',
        'disagreement_00',
        'disagreement_01',
        'spread.png',
        'spread_00',
        'spread_01',
    ]
    for info in infos(output).values():
        assert info['panels'] == [
            'image',
            'truth',
            'prediction_1',
            'prediction_2',
            'prediction_3',
            'right_1_2',
            'right_1_3',
        ]


def test_largest_disagreement_comes_first_and_the_spread_is_fixed(output):
    shares = [
        json.loads((output / f'pictures/disagreement_0{i}/info.json').read_text())['score']
        for i in range(2)
    ]
    assert shares[0] >= shares[1] > 0
    spread = [
        json.loads((output / f'pictures/spread_0{i}/info.json').read_text())['index']
        for i in range(2)
    ]
    assert spread == [0, 5]


def test_pictures_are_those_of_the_evaluation_at_the_end_of_training(narrow, output):
    """The same predictions as in the report of the run, which other code paints."""
    found = 0
    of_report = {info['index']: path for path, info in infos(narrow).items()}
    for path, info in infos(output).items():
        if info['index'] in of_report:
            own = of_report[info['index']]
            found += 1
            np.testing.assert_array_equal(read_png(path / 'truth.png'), read_png(own / 'truth.png'))
            np.testing.assert_array_equal(
                read_png(path / 'prediction_1.png'), read_png(own / 'prediction.png')
            )
    assert found


def test_colours_follow_from_the_painted_maps(output):
    """Truth and predictions are compared by their colours, which differ between classes."""
    for path in infos(output):
        truth = read_png(path / 'truth.png')
        first = (read_png(path / 'prediction_1.png') == truth).all(-1)
        void = (truth == 0).all(-1)
        for number in (2, 3):
            second = (read_png(path / f'prediction_{number}.png') == truth).all(-1)
            painted = read_png(path / f'right_1_{number}.png')
            for colour, pixels in (
                (WHITE, first & second),
                (RED, first & ~second),
                (CYAN, second & ~first),
                (BLACK, ~first & ~second),
            ):
                np.testing.assert_array_equal((painted == colour).all(-1)[~void], pixels[~void])
            assert np.all(painted[void] == 128)


def test_figures_have_a_panel_a_row_and_an_example_a_column(output):
    figure = read_png(output / 'pictures/spread.png')
    height, width = 32, 64
    assert figure.shape == (7 * height + 6 * 2, 2 * width + 2, 3)
    for column in range(2):
        for row, panel in enumerate(('image', 'truth', 'prediction_1')):
            y, x = row * (height + 2), column * (width + 2)
            cell = figure[y : y + height, x : x + width]
            expected = read_png(output / f'pictures/spread_0{column}/{panel}.png')
            np.testing.assert_array_equal(cell, expected)


def test_class_maps_give_the_scores_of_the_run(wide, tmp_path):
    """The confusion matrix of the predictions is the matrix in scores.json."""
    (asked,) = runs.parse(f'{wide},{wide}:segmentation')[:1]
    with StopSignal() as stop:
        opened = runs.open_compared(asked, (), stop)
        store = labels.LabelFiles(tmp_path)
        labels.predict_split(opened, 0, store, stop)
    num_classes = opened.classes.num_classes
    matrix = np.zeros((num_classes, num_classes), np.int64)
    for index in range(10):
        truth, (prediction,) = store.example(index, 1)
        counted = truth != 255
        np.add.at(matrix, (truth[counted], prediction[counted]), 1)
    np.testing.assert_array_equal(matrix, opened.scores['confusion'])


# --- scores and page ------------------------------------------------------------------------------


def test_scores_are_those_of_the_runs(output, narrow, wide, learned):
    with (output / 'scores.csv').open() as file:
        rows = {row.pop('score'): row for row in csv.DictReader(file)}
    folders = {'A': narrow, '<B>': wide, 'C': learned}
    for name, folder in folders.items():
        (scores,) = json.loads((folder / 'scores.json').read_text()).values()
        assert float(rows['mIoU'][name]) == scores['mIoU']
        assert float(rows['IoU/road'][name]) == scores['IoU']['road']
    assert 'mIoU_whole_factors' not in rows, 'only one run has it'
    assert not any('baseline' in row or 'made_by' in row for row in rows)


def test_page_shows_all_parts_without_a_script(output):
    text = (output / 'compare.html').read_text()
    assert '<script' not in text and 'http' not in text.replace('http-equiv', '')
    for heading in (
        'Runs',
        'Scores',
        'Differences, paired by image',
        'Which prediction is right',
        'Largest disagreement',
        'Evenly spread images',
        'Classes, by gain over the first run',
        'Histograms',
        'Curves',
        'Settings that differ',
    ):
        assert f'<h3>{heading}</h3>' in text
    assert '&lt;B&gt;' in text and '<B>' not in text
    assert text.count('<img') == 4 * 7
    assert 'model.width' in text
    for role in ('r0', 'r1', 'r2'):
        assert f'class="line {role}"' in text


def test_only_the_best_is_bold():
    monitor = ('error', 'min')
    assert best('mIoU', [0.2, 0.4, 0.3], monitor) == [False, True, False]
    assert best('error', [0.2, 0.4, 0.2], monitor) == [True, False, True]
    assert best('watermark/none/PSNR', [20, 21], monitor) == [False, True]
    assert best('latent_residual', [1, 2], monitor) == [False, False]
    assert best('mIoU', [0.4, 0.4], monitor) == [False, False]
    for name in ('Sem', 'NN', 'noisy_boxes', 'per_class/car/Sem'):
        assert best(name, [0.2, 0.4], monitor) == [True, False]
    assert best('intervals/Sem/mean', [0.2, 0.4], monitor) == [True, False]
    assert best('intervals/tIOU/mean', [0.2, 0.4], monitor) == [False, True]
    assert best('falls/flip 1/tIOU_fall', [0.2, 0.4], monitor) == [True, False]


@pytest.mark.slow
def test_one_net_at_a_time_is_on_the_device(narrow, wide, tmp_path, monkeypatch):
    held = []
    load = labels.load_state

    def load_state(compared):
        held.append(sum(array.nbytes for array in jax.live_arrays()))
        state = load(compared)
        held.append(sum(array.nbytes for array in jax.tree.leaves(state)))
        return state

    monkeypatch.setattr(labels, 'load_state', load_state)
    compared(tmp_path / 'out', wide, narrow)
    before_first, of_first, before_second, _ = held
    assert before_second - before_first < of_first / 2


def test_a_run_may_name_its_stage_and_names_default_to_the_folders(narrow, wide, tmp_path):
    asked = runs.parse(f'{narrow}:segmentation, {wide}', stage='other')
    assert [(each.name, each.stage) for each in asked] == [
        ('narrow', 'segmentation'),
        ('wide', 'other'),
    ]
    # A folder with a colon in its name, and folders of the same name.
    (tmp_path / 'x:y').mkdir()
    asked = runs.parse(f'{tmp_path}/x:y,{tmp_path}/a/seed_0,{tmp_path}/b/seed_0')
    assert asked[0].folder == tmp_path / 'x:y' and asked[0].stage == ''
    assert [each.name for each in asked] == [f'{tmp_path.name}/x:y', 'a/seed_0', 'b/seed_0']
    # Folders whose parents have one name, too.
    texts = [f'{tmp_path}/a/row/seed_0', f'{tmp_path}/b/row/seed_0']
    assert [each.name for each in runs.parse(','.join(texts))] == texts


def test_an_interval_stands_behind_its_score_and_its_ends_have_no_differences():
    shared = {
        'tIOU': [0.5, 0.75],
        'intervals/tIOU/mean': [0.5, 0.75],
        'intervals/tIOU/low': [0.4, 0.7],
        'intervals/tIOU/high': [0.6, 0.8],
        'boxes': [34.0, 34.0],
    }
    _, first, second, difference = page._score_row('tIOU', shared, ('tIOU', 'max'))
    assert first == '50.00 <span class="soft">[40.00, 60.00]</span>'
    assert second == '<b>75.00</b> <span class="soft">[70.00, 80.00]</span>'
    assert difference == '+25.00'
    assert page._score_row('intervals/tIOU/low', shared, ('tIOU', 'max'))[-1] == ''
    assert page._score_row('intervals/tIOU/mean', shared, ('tIOU', 'max'))[-1] == '+25.00'
    assert page._score_row('boxes', shared, ('tIOU', 'max'))[1:] == ['34', '34', '0']


def test_histograms_of_the_same_name_and_bins_share_an_axis():
    """As Fig. 4.3 of the thesis on learned dilation: layers from two starts."""

    def scored(name, edges, counts):
        histogram = {'edges': edges, 'counts': {'start': [9, 9], 'now': counts}}
        scores = {'mIoU': 0.5, 'factors': {'conv5_1': histogram}}
        return types.SimpleNamespace(name=name, scores=scores)

    text = page._histograms(
        [scored('constant', [1, 2, 4], [3, 5]), scored('uniform', [1, 2, 4], [4, 4])]
    )
    assert text.count('<figure') == 1 and 'factors/conv5_1' in text
    assert 'constant: 8 values, most (5) from 2 to 4' in text
    assert 'uniform: 8 values' in text and 'start' not in text
    other = page._histograms([scored('a', [1, 2, 4], [3, 5]), scored('b', [1, 3, 4], [4, 4])])
    assert other.count('<figure') == 2
    assert page._histograms([types.SimpleNamespace(name='c', scores={'mIoU': 0.5})]) == ''


# --- rows that only evaluate ----------------------------------------------------------------------


@pytest.fixture(scope='module')
def evaluated(narrow, tmp_path_factory):
    """Returns the folder of a row that evaluates the run `narrow` at half of its size."""
    root = tmp_path_factory.mktemp('table')
    trained = shutil.copytree(narrow, root / 'trained/seed_0')
    config = config_lib.from_json(files.read_json(trained / 'config.json'))
    config.data.eval_size = (16, 32)
    row = Row('smaller', 'smaller', 'supervised.py', evaluates='trained')
    run = table_plan.TableRun(row, 0, config, root / 'smaller/seed_0')
    with StopSignal() as stop:
        table_runs.train(run, stop)
    return run.folder


@pytest.mark.slow
def test_an_evaluation_is_compared_by_the_net_of_its_run_under_its_own_config(evaluated, tmp_path):
    trained = evaluated.parents[1] / 'trained/seed_0'
    compared(tmp_path / 'out', trained, evaluated, names='whole,small')
    with (tmp_path / 'out/scores.csv').open() as file:
        rows = {row.pop('score'): row for row in csv.DictReader(file)}
    for name, folder in (('whole', trained), ('small', evaluated)):
        scores = files.read_json(folder / 'scores.json')['segmentation']
        assert float(rows['mIoU'][name]) == pytest.approx(scores['mIoU'])
    text = (tmp_path / 'out/compare.html').read_text()
    assert 'smaller/seed_0' in text and 'trained/seed_0' in text and 'data.eval_size' in text
    (asked,) = runs.parse(f'{evaluated},{trained}')[:1]
    with StopSignal() as stop:
        opened = runs.open_compared(asked, (), stop)
        assert opened.inputs.size == (16, 32)
        labels.predict_split(opened, 0, labels.LabelFiles(tmp_path / 'maps'), stop)
    num_classes = opened.classes.num_classes
    matrix = np.zeros((num_classes, num_classes), np.int64)
    for index in range(10):
        truth, (prediction,) = labels.LabelFiles(tmp_path / 'maps').example(index, 1)
        counted = truth != 255
        np.add.at(matrix, (truth[counted], prediction[counted]), 1)
    np.testing.assert_array_equal(matrix, opened.scores['confusion'])


def test_evaluations_without_their_run_are_refused(evaluated, wide, tmp_path):
    out = tmp_path / 'out'
    table = shutil.copytree(evaluated.parents[1], tmp_path / 'table')
    evaluated = table / 'smaller/seed_0'
    trained = table / 'trained/seed_0'
    start = files.read_json(evaluated / 'start.json')
    assert start['evaluates'] == '../../trained/seed_0'
    trained.rename(tmp_path / 'moved')
    message = refusal(out, wide, evaluated)
    assert f'an evaluation of {trained}' in message and f'move the run to {trained}' in message
    (tmp_path / 'moved').rename(trained)
    files.write_json(evaluated / 'start.json', {**start, 'digest': '0123456789ab'})
    message = refusal(out, wide, evaluated)
    assert 'trained anew' in message and f'rm {evaluated / "scores.json"}' in message
    # Tables of older versions did not name the run.
    del start['evaluates']
    files.write_json(evaluated / 'start.json', start)
    message = refusal(out, wide, evaluated)
    assert 'do not name the trained run' in message and 'start the table again' in message


# --- refusals -------------------------------------------------------------------------------------


def refusal(*arguments, **options):
    with pytest.raises(InputError) as error:
        compared(*arguments, **options)
    assert error.value.fix
    return str(error.value)


def test_runs_that_are_no_two_different_finished_runs(narrow, tmp_path):
    out = tmp_path / 'out'
    assert '1 run\n' in refusal(out, narrow)
    assert 'twice' in refusal(out, narrow, narrow)
    assert 'no such folder' in refusal(out, narrow, tmp_path / 'none')
    assert 'no run' in refusal(out, narrow, tmp_path)
    assert '1 names of 2 runs' in refusal(out, narrow, tmp_path, names='a')
    assert 'different names' in refusal(out, narrow, tmp_path, names='a,a')
    assert not out.exists()


def test_a_run_that_is_not_finished(narrow, wide, tmp_path):
    open_run = shutil.copytree(wide, tmp_path / 'wide')
    (open_run / 'segmentation/scores.json').unlink()
    message = refusal(tmp_path / 'out', narrow, open_run)
    assert "stage 'segmentation', which is not finished" in message
    assert f'--workdir {open_run}' in message


def test_scores_of_an_earlier_step(narrow, wide, tmp_path):
    """The run was extended since, and has not yet been scored again."""
    extended = shutil.copytree(wide, tmp_path / 'wide')
    path = extended / 'segmentation/scores.json'
    scores = files.read_json(path)
    scores['made_by']['step'] = 5
    files.write_json(path, scores)
    assert 'scores of step 5 of 6' in refusal(tmp_path / 'out', narrow, extended)


def test_other_images_than_the_scores_are_refused(narrow, wide, tmp_path):
    message = refusal(
        tmp_path / 'out', narrow, wide, assignments=[Assignment('data.eval_split', 'train')]
    )
    assert 'another config or other data' in message


@pytest.mark.slow
def test_runs_that_score_other_data(narrow, train, tmp_path):
    out = tmp_path / 'out'
    other_world = train('other_world', 'supervised', 'data.world.seed=1')
    message = refusal(out, narrow, other_world)
    assert "split 'val' has" in message and f'the data that {narrow} is scored on' in message


@pytest.mark.slow
def test_a_run_that_is_scored_at_another_resolution_is_scored_again_by_the_fix(narrow, tmp_path):
    other = shutil.copytree(narrow, tmp_path / 'other')

    def score(resolution):
        config = config_lib.from_json(files.read_json(other / 'config.json'))
        config.evaluate.resolution = resolution
        driver.train(config, str(other))

    score('image')
    message = refusal(tmp_path / 'out', narrow, other)
    assert 'evaluate.resolution=image' in message
    assert f'--workdir {other} --config.evaluate.resolution=label scores' in message
    score('label')
    text = compared(tmp_path / 'out', narrow, other).read_text()
    # The runs are equal, so no score is better and no pixel is only right once.
    assert '<b>' not in text.split('Largest disagreement')[0]


def test_runs_with_other_classes(narrow, wide):
    with StopSignal() as stop:
        first, other = (
            runs.open_compared(runs.Asked(folder.name, folder, ''), (), stop)
            for folder in (narrow, wide)
        )
    spec = other.spec
    renamed = dataclasses.replace(spec.classes, names=('street', *spec.classes.names[1:]))
    data = types.SimpleNamespace(spec=dataclasses.replace(spec, classes=renamed))
    other = other._replace(run=other.run._replace(datasets={'data': data}))
    with pytest.raises(InputError, match=r"another name of class 0 \('road'\): 'street'"):
        runs.check_comparable([first, other])


def test_stages_without_class_maps(narrow, plain, tmp_path):
    out = tmp_path / 'out'
    assert 'whose stages predict no class maps' in refusal(out, narrow, plain)
    message = refusal(out, f'{narrow}:segmentatoin', plain)
    assert "did you mean 'segmentation'?" in message


def test_a_stopped_comparison_leaves_no_class_maps(narrow, wide, tmp_path, monkeypatch):
    monkeypatch.setattr(StopSignal, 'reached', lambda self: True)
    with pytest.raises(Preempted):
        compared(tmp_path / 'out', narrow, wide)
    assert not (tmp_path / 'out/.labels').exists()


# --- the command line -----------------------------------------------------------------------------


def command(capsys, *arguments):
    for flag in main.FLAGS:
        flags.FLAGS[flag.name].unparse()
    code = 0
    try:
        main.main(main.parse_arguments(['segjax.main', '--mode=compare', *map(str, arguments)]))
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr()


@pytest.mark.parametrize(
    'arguments, fragments',
    [
        ((), ['--runs', 'nothing', 'fix:      --runs runs/first,runs/second']),
        (('--runs=a,b',), ['--output', 'nothing', 'fix:      --output']),
        (('--runs=a,b', '--output=o', '--workdir=w'), ['--workdir', 'each run knows its config']),
        (('--runs=a,b', '--output=o', '--config=c.py'), ['--config', 'leave --config out']),
        (('--runs=a', '--output=o'), ['--runs', '1 run', 'at least two']),
        (('--runs=a,b', '--output=o', '--pictures=0'), ['--pictures', 'at least 1']),
        (('--runs=a,b', '--output=o', '--pictures=x'), ['--pictures', 'a whole number']),
        (('--runs=a,b', '--output=o', '--input=i'), ['--input', '--mode predict']),
    ],
)
def test_wrong_flags(capsys, tmp_path, monkeypatch, arguments, fragments):
    monkeypatch.chdir(tmp_path)
    code, (out, err) = command(capsys, *arguments)
    assert code == 1 and not out
    for fragment in fragments:
        assert fragment in err
    assert not list(tmp_path.iterdir())


def test_the_command_writes_the_page(narrow, wide, capsys, tmp_path):
    code, (out, _) = command(
        capsys, f'--runs={narrow},{wide}', f'--output={tmp_path}/out', '--pictures=2'
    )
    assert code == 0 and f'comparison: {tmp_path}/out/compare.html' in out
    assert (tmp_path / 'out/pictures/spread_00/right_1_2.png').exists()


def test_runs_that_score_other_choices_of_the_same_split(narrow, wide):
    with StopSignal() as stop:
        by_folder = {
            folder: runs.open_compared(runs.Asked(folder.name, folder, ''), (), stop)
            for folder in (narrow, wide)
        }

    def scored(folder, *positions, **fields):
        opened = by_folder[folder]
        inputs = opened.stage.eval_input._replace(**fields)
        run = opened.run.with_products('before', {'chosen': np.array(positions, np.int32)})
        return opened._replace(run=run, stage=opened.stage._replace(eval_input=inputs))

    product = Product('before', 'chosen')
    first = scored(narrow, 0, 1, chosen=product)
    runs.check_comparable([first, scored(wide, 0, 1, chosen=product)])
    for other in (scored(wide, 0, 2, chosen=product), scored(wide)):
        with pytest.raises(InputError, match='choice'):
            runs.check_comparable([first, other])
    with pytest.raises(InputError, match='neighbours'):
        runs.check_comparable([scored(narrow), scored(wide, frames=(-1, 1))])
    # The example itself takes the places of missing neighbours, so all examples are scored.
    filled = DrawnFrames(3, (-1, 0, 1), fill=True)
    runs.check_comparable([scored(narrow), scored(wide, frames=filled)])
    with pytest.raises(InputError, match='neighbours'):
        runs.check_comparable([scored(narrow), scored(wide, frames=filled._replace(fill=False))])
