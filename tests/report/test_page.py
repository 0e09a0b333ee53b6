import itertools
import json
import re
import shutil
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from segjax.core import environment, files
from segjax.report import charts, curve_sections, html, page, scores
from segjax.report.charts import Bars, Dot, Point, Reference, Series, Span
from segjax.report.pictures import Panel, save_pictures
from segjax.spec import ClassSpec, DataSpec
from segjax.train import log_files

NAMES = ('road', 'traffic <light>', 'car', 'person & rider')
PALETTE = ((128, 64, 128), (250, 170, 30), (0, 0, 142), (220, 20, 60))
HOSTILE = '"><script>alert(1)</script>'
VOID = {'meta', 'img', 'br', 'link', 'hr', 'input'}


class Page(HTMLParser):
    """Parses a page: checks that its tags are balanced, and collects tags, attributes and words."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.stack, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(text)
        self.close()
        assert self.stack == [], f'never closed: {self.stack}'

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.stack and self.stack[-1] == tag, f'</{tag}> closes {self.stack[-3:]}'
        self.stack.pop()

    def handle_data(self, data):
        if 'style' not in self.stack:
            self.text.append(data)

    @property
    def words(self) -> str:
        return ' '.join(' '.join(self.text).split())


@pytest.fixture
def spec():
    return DataSpec(
        name='streets',
        classes=ClassSpec(NAMES, PALETTE, (7, 19, 26, 24)),
        features=('image', 'label'),
        num_examples={'train': 320, 'val': 64},
        max_size={'train': (128, 256), 'val': (128, 256)},
        class_pixels={'train': (700, 100, 150, 50), 'val': (70, 10, 20, 0)},
        void_pixels={'train': 0, 'val': 0},
    )


SCORES = {
    'mIoU': 0.4567, 'pixel_accuracy': 0.8, 'policy': 'cityscapes', 'mean_error': 0.0321,
    'IoU': dict(zip(NAMES, (0.9, 0.2, 0.3, None))),
    'accuracy': dict(zip(NAMES, (0.95, 0.25, 0.5, None))),
    'baseline_commonest': {'mIoU': 0.175, 'pixel_accuracy': 0.7},
    'confusion': [[65, 2, 3, 0, 0], [6, 4, 0, 0, 0], [9, 1, 10, 0, 0], [0, 0, 0, 0, 0]],
    'roc': {'x': [0, 0.5, 1], 'y': [0, 0.8, 1], 'x_name': 'false positives'},
    'depth': {'rmse': 4.25, 'by_range': {'near': {'error': 0.5}, 'far': {'error': 1.5}}},
}  # fmt: skip


def entries(count: int, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    palette = np.array(PALETTE, np.uint8)
    found = []
    for i in range(count):
        label = rng.integers(0, 3, (24, 40))  # the last class is in no picture
        pictures = {
            'image': rng.integers(0, 256, (24, 40, 3), np.uint8),
            'prediction': palette[np.roll(label, i + 1)],
            'truth': palette[label],
        }
        found.append(
            {
                'index': 10 * i,
                'score': 0.9 - 0.1 * i,
                'name': f'frame {i} {HOSTILE}',
                'pictures': pictures,
            }
        )
    return found


def make_stage(folder, steps: int = 12):
    metrics, timing = log_files.MetricsLog(folder, 0), log_files.TimingLog(folder)
    for step in range(1, steps + 1):
        loss = None if step == 5 else 2.0 / step
        metrics.write(step, 'train', {'loss': loss, 'learning_rate': 0.1})
        timing.write(
            step,
            {
                'images_per_second': 30.0 + step,
                'seconds_per_step': 24 / (30.0 + step),
                'input_wait_share': 0.01,
            },
        )
        if step % 4 == 0:
            metrics.write(step, 'eval', {'mIoU': step / 30, 'IoU/road': step / 20})
    timing.write(steps, {'compile_seconds': 17.5})
    metrics.close()
    timing.close()
    files.write_json(folder / 'scores.json', SCORES)
    save_pictures(folder / 'pictures', 'best', entries(2))
    save_pictures(folder / 'pictures', 'worst', entries(2, seed=1))


@pytest.fixture(scope='module')
def finished_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'first'
    config = {
        'pipeline': 'supervised',
        'seed': 3,
        'note': HOSTILE,
        HOSTILE: 1,
        'data': {'train_split': 'train'},
        'train': {'dtype': 'bfloat16', 'batch_size': 6, 'num_steps': 12},
        'augment': {'crop': [256, 512]},
    }
    files.write_json(folder / 'config.json', config)
    files.write_json(folder / 'environment.json', environment.describe('Test GPU 9000', 4, 1))
    make_stage(folder / 'segmentation')
    return folder


@pytest.fixture
def workdir(tmp_path, finished_run):
    return shutil.copytree(finished_run, tmp_path / 'run')


def write(workdir, spec=None) -> tuple[str, Page]:
    path = page.write(workdir, {'data': spec} if spec else None)
    assert path == workdir / 'report.html'
    text = path.read_text()
    return text, Page(text)


def polylines(text: str, title: str) -> dict[str, int]:
    """Returns the number of points of each kind of line in the chart of a title."""
    figure = re.search(
        rf'<figure class="chart"><figcaption><b>{re.escape(title)}</b>.*?</figure>', text, re.S
    ).group()
    points: dict[str, int] = {}
    for css, coordinates in re.findall(r'<polyline class="([^"]*)" points="([^"]*)"', figure):
        points[css] = points.get(css, 0) + len(coordinates.split())
    return points


# --- the page -------------------------------------------------------------------------------------


def test_full_report(workdir, spec):
    text, page = write(workdir, spec)
    assert 'class="note"' not in text  # no section failed
    for name in NAMES:
        assert name in page.words
    for words in (
        '45.67 %', 'commonest 17.50 %', 'policy: cityscapes', '12 steps', 'data streets', 'seed 3',
        'Classes, by IoU', 'Confusion matrix', 'Best images', 'Worst images',
        'rmse 4.25', 'near 0.5', 'far 1.5',
        'device Test GPU 9000', 'devices 4', 'dtype bfloat16', 'global batch 24',
        'image size 256x512', 'images per second, median 36.5',
        'first step, compilation included 17.5 s', curve_sections.TIMING_INCLUDES,
        'train 320 examples', 'jax ' + __import__('jax').__version__, 'config.json',
    ):  # fmt: skip
        assert words.replace(' %', '') in page.words.replace(' %', ''), words


def test_report_is_self_contained(workdir, spec):
    text, page = write(workdir, spec)
    sources = [
        value for _, name, value in page.attributes if name in ('src', 'href', 'srcset', 'action')
    ]
    assert len(sources) == 12 and all(
        s.startswith('data:image/') for s in sources
    )  # 2 groups of 2 entries of 3 panels
    assert not {'script', 'link', 'iframe', 'object'} & set(page.tags)
    assert 'url(' not in text and '@import' not in text
    assert not [name for _, name, _ in page.attributes if name.startswith('on')]


def test_hostile_text_stays_text(workdir, spec):
    text, page = write(workdir, spec)
    assert '<script' not in text
    assert (
        page.words.count('<script>alert(1)</script>') >= 2 + 4
    )  # config key and value, names of pictures
    alts = [value for _, name, value in page.attributes if name == 'alt']
    assert len(alts) == 12 and all(alt.endswith(HOSTILE) for alt in alts)


def test_curves_have_the_points_of_the_log(workdir):
    text, _ = write(workdir)
    assert polylines(text, 'loss') == {'line train': 11}  # the NaN of step 5 is a gap
    assert polylines(text, 'mIoU %') == {'line eval': 3}
    assert polylines(text, 'IoU/road %') == {'line eval': 3}
    assert polylines(text, 'images per second') == {'line s2': 12}
    figure = re.search(r'<b>mIoU %</b>.*?</figure>', text, re.S).group()
    assert (
        '<title>eval, step 12: 40</title>' in figure and '<title>commonest: 17.5</title>' in figure
    )


def test_classes_are_sorted_with_shares(workdir, spec):
    text, _ = write(workdir, spec)
    table = re.search(r'<table class="bars">.*?</table>', text, re.S).group()
    rows = [
        re.sub(r'\s+', ' ', re.sub(r'<[^>]+>', ' ', row)).split() for row in table.split('<tr>')[2:]
    ]
    assert rows[0] == ['road', '90.00', '95.00', '70.00', '70.00']
    assert [row[0] for row in rows] == ['road', 'car', 'traffic', 'person']
    assert rows[-1][-4:] == ['-', '-', '0.00', '5.00']
    assert 'background:rgb(128,64,128)' in table


def test_confusion_cells_are_shares_of_the_row(workdir):
    text, _ = write(workdir)
    assert '<title>road, right: 92.86 % (65 pixels)</title>' in text
    assert '<title>car taken for road: 45.00 % (9 pixels)</title>' in text
    listing = re.search(
        r'<table class=""><thead><tr><th class="">most frequent.*?</table>', text, re.S
    ).group()
    first = re.findall(r'<th scope="row">(.*?)</th><td class="num">(.*?)</td>', listing)[0]
    assert first == ('car &rarr; road', '45.0')


def test_legend_names_the_classes_in_the_pictures(workdir, spec):
    text, _ = write(workdir, spec)
    (legend,) = re.findall(r'<ul class="legend">.*?</ul>', text)
    assert [name in legend for name in ('road', 'traffic &lt;light&gt;', 'car', 'person')] == [
        True,
        True,
        True,
        False,
    ]


def test_legend_names_the_marks_of_the_pictures(workdir, spec):
    entry = entries(1)[0]
    errors = Panel(entry['pictures']['prediction'], legend={'wrong pixel': (220, 40, 40)})
    pictures = {**entry['pictures'], 'errors': errors}
    save_pictures(workdir / 'segmentation/pictures', 'best', [{**entry, 'pictures': pictures}])
    text, _ = write(workdir, spec)
    (legend,) = re.findall(r'<ul class="legend">.*?</ul>', text)
    assert 'rgb(220,40,40)"></i>wrong pixel</li>' in legend


def test_two_stages_in_the_order_they_ran(workdir, spec):
    make_stage(workdir / 'a_second')
    files.write_json(workdir / 'scores.json', {'segmentation': SCORES, 'a_second': SCORES})
    text, page = write(workdir, spec)
    assert 'class="note"' not in text
    assert page.words.index('1. segmentation') < page.words.index('2. a_second')
    anchors = [value for _, name, value in page.attributes if name == 'href']
    assert anchors == ['#stage-0', '#stage-1']
    assert [v for _, name, v in page.attributes if name == 'id'] == ['stage-0', 'stage-1']


def test_stages_with_pictures_of_the_same_examples_stand_side_by_side(workdir, spec):
    make_stage(workdir / 'a_second')
    files.write_json(workdir / 'a_second/scores.json', {**SCORES, 'mIoU': 0.5111, 'PSNR': 21.5})
    files.write_json(workdir / 'scores.json', {'segmentation': SCORES, 'a_second': SCORES})
    _, page = write(workdir, spec)
    assert 'Side by side' not in page.words, 'nothing to compare yet'
    for seed, stage in enumerate(('segmentation', 'a_second')):
        save_pictures(workdir / stage / 'pictures', 'same', entries(2, seed))
    text, page = write(workdir, spec)
    assert 'class="note"' not in text
    table = text[text.index('Side by side') : text.index('</table>', text.index('Side by side'))]
    assert '45.67' in table and '51.11' in table and '21.5' in table
    start = text.index('Side by side')
    pictures = re.findall(
        r'<figcaption>(.*?)</figcaption>', text[start : text.index('id="stage-0"')]
    )
    # The classes of the pictures have a legend. The last class is in no picture.
    legend = text[start : text.index('<div class="picture">', start)].partition('class="legend"')[2]
    assert [html.escape(name) in legend for name in NAMES] == [True, True, True, False]
    # Image and truth once an example, the prediction of each stage below.
    assert pictures == 2 * ['image', 'truth', 'prediction', 'prediction']
    assert 'same' not in re.findall(r'<h3>(.*?)</h3>', text), (
        'not once more among the pictures of a stage'
    )


def test_a_finished_stage_is_not_called_stopped(workdir, spec):
    config = files.read_json(workdir / 'config.json')
    config['train']['num_steps'] = 600  # of another stage
    files.write_json(workdir / 'config.json', config)
    files.write_json(workdir / 'start.json', {'stages': ['segmentation'], 'steps': [12]})
    _, page = write(workdir, spec)
    assert 'stopped at step' not in page.words and '12 steps' in page.words


def test_pictures_of_different_examples_never_share_a_row(workdir, spec):
    """Both stages count from 0, and the second leaves out the first frame."""
    make_stage(workdir / 'a_second')
    files.write_json(workdir / 'scores.json', {'segmentation': SCORES, 'a_second': SCORES})
    for stage, first in (('segmentation', 0), ('a_second', 1)):
        found = [{**entry, 'index': i} for i, entry in enumerate(entries(3)[first : first + 2])]
        save_pictures(workdir / stage / 'pictures', 'same', found)
    text, _ = write(workdir, spec)
    part = text[text.index('Side by side') : text.index('id="stage-0"')]
    rows = [
        re.findall(r'<figcaption>(.*?)</figcaption>', row)
        for row in part.split('<div class="picture">')[1:]
    ]
    alone, both = ['image', 'truth', 'prediction'], ['image', 'truth', 'prediction', 'prediction']
    assert rows == [alone, both, alone]


def test_stopped_run_shows_its_last_evaluation(workdir, spec):
    for name in ('scores.json', 'pictures'):
        path = workdir / 'segmentation' / name
        path.unlink() if path.is_file() else shutil.rmtree(path)
    files.write_json(workdir / 'start.json', {'stages': ['segmentation'], 'steps': [600]})
    text, page = write(workdir, spec)
    assert 'class="note"' not in text
    assert 'stopped at step 12 of 600' in page.words
    assert 'mIoU 40.00' in page.words
    assert 'Confusion matrix' not in page.words and 'Best images' not in page.words


FILES = (
    'config.json', 'environment.json', 'segmentation/scores.json', 'segmentation/metrics.jsonl',
    'segmentation/timing.jsonl',
    'segmentation/pictures/best_00/info.json', 'segmentation/pictures/worst_01/truth.png',
)  # fmt: skip


@pytest.mark.parametrize('damage', [None, b'', b'[1, 2', b'[1, 2]\n'])
@pytest.mark.parametrize('name', FILES)
def test_missing_and_broken_pieces_do_not_stop_the_report(workdir, spec, name, damage):
    path = workdir / name
    path.unlink() if damage is None else path.write_bytes(damage)
    for given in (spec, None):
        _, page = write(workdir, given)
        assert page.tags.count('h1') == 1


def test_empty_run_folder(tmp_path):
    text, page = write(tmp_path)
    assert page.tags.count('h1') == 1 and 'class="note"' not in text


def test_a_section_that_fails_leaves_a_note(workdir):
    files.write_json(workdir / 'segmentation/pictures/best_00/info.json', {'index': 0})
    text, page = write(workdir)
    assert "Section pictures is missing: KeyError: 'panels'" in page.words
    assert (
        'Confusion matrix' in page.words
        and 'Speed' in page.words
        and text.count('class="note"') == 1
    )


# --- pictures -------------------------------------------------------------------------------------


def test_pictures_are_kept_losslessly_and_replaced(tmp_path):
    given = entries(3)
    given[1]['score'] = float('nan')
    given[1]['pictures']['grey'] = np.arange(24, dtype=np.uint8).reshape(4, 6)
    save_pictures(tmp_path, 'best', given)
    save_pictures(tmp_path, 'worst', entries(1))
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        'best_00',
        'best_01',
        'best_02',
        'worst_00',
    ]
    stored = cv2.imread(str(tmp_path / 'best_00/truth.png'))[..., ::-1]
    np.testing.assert_array_equal(stored, given[0]['pictures']['truth'])
    grey = cv2.imread(str(tmp_path / 'best_01/grey.png'), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(grey, given[1]['pictures']['grey'])
    info = json.loads((tmp_path / 'best_01/info.json').read_text())
    assert info == {
        'index': 10,
        'score': None,
        'name': given[1]['name'],
        'panels': ['image', 'prediction', 'truth', 'grey'],
    }
    save_pictures(tmp_path, 'best', given[:1])
    assert sorted(f.name for f in tmp_path.iterdir()) == ['best_00', 'worst_00']
    with pytest.raises(TypeError, match='uint8'):
        save_pictures(tmp_path, 'best', [{**given[0], 'pictures': {'image': np.zeros((2, 2, 3))}}])
    assert (tmp_path / 'best_00/info.json').exists()  # a failed call leaves the old pictures


@pytest.mark.parametrize('count, columns', [(3, 3), (5, 5), (6, 3), (7, 4)])
def test_lines_of_pictures_are_of_equal_length(workdir, count, columns):
    given = entries(1)[0]
    pictures = {f'panel_{i}': given['pictures']['image'] for i in range(count)}
    save_pictures(workdir / 'segmentation/pictures', 'best', [{**given, 'pictures': pictures}])
    save_pictures(workdir / 'segmentation/pictures', 'worst', [])
    assert re.findall(r'class="panels" style="--columns: (\d)"', write(workdir)[0]) == [
        str(columns)
    ]


def test_large_label_maps_keep_their_colours_and_photos_become_small(tmp_path):
    label = np.array(PALETTE, np.uint8)[np.random.default_rng(0).integers(0, 4, (300, 2000))]
    photo = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 256, (300, 2000, 3), np.uint8), (0, 0), 4
    )
    for name, picture in (('label', label), ('photo', photo)):
        (tmp_path / f'{name}.png').write_bytes(files.encode_png(picture))
    uri, colours = html.inline_picture(tmp_path / 'label.png')
    assert uri.startswith('data:image/png') and colours == {
        r << 16 | g << 8 | b for r, g, b in PALETTE
    }
    uri, colours = html.inline_picture(tmp_path / 'photo.png')
    assert uri.startswith('data:image/jpeg') and colours == set()
    assert len(uri) < 100_000


# --- charts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'low, high, expected',
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (0, 6000, [0, 2000, 4000, 6000]),
        (-3e-5, 5e-5, [-2e-5, 0, 2e-5, 4e-5]),
        (2, 2, [2]),
    ],
)
def test_nice_ticks(low, high, expected):
    assert charts.nice_ticks(low, high) == pytest.approx(expected, abs=1e-18)


@pytest.mark.parametrize(
    'value, text',
    [
        (0, '0'),
        (0.53219, '0.5322'),
        (12000, '12,000'),
        (1.5e-5, '1.5e-5'),
        (2e7, '2e7'),
        (-250.5, '-250.5'),
    ],
)
def test_format_number(value, text):
    assert charts.format_number(value) == text


def test_smooth_is_the_mean_of_a_symmetric_window():
    values = [1.0, 5.0, None, 2.0, 8.0, 0.0, 4.0]
    for i, got in enumerate(charts.smooth(values, 2)):
        half = min(2, i, len(values) - 1 - i)
        window = [v for v in values[i - half : i + half + 1] if v is not None]
        assert got == (None if values[i] is None else pytest.approx(sum(window) / len(window)))
    line = [3.0 - 0.5 * i for i in range(30)]
    assert charts.smooth(line, 7) == pytest.approx(line)  # no lag


def marks(svg: str) -> list[tuple[float, float]]:
    return [
        (float(x), float(y))
        for x, y in re.findall(r'<circle[^>]*cx="([-\d.]+)" cy="([-\d.]+)"', svg)
    ]


def test_line_chart_places_points_on_its_own_scale():
    svg = charts.line_chart('t', [Series('a', [0, 10, 20], [0.0, 5.0, 10.0], 'eval')])
    (x0, y0), (x1, y1), (x2, y2) = marks(svg)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.15) and y0 - y1 == pytest.approx(
        y1 - y2, abs=0.15
    )
    assert y0 > y2  # upwards
    ticks = {
        float(t): float(y) - 3.5 for y, t in re.findall(r'y="([\d.]+)" class="end">([\d.]+)<', svg)
    }
    assert ticks[5.0] == pytest.approx(y1, abs=0.11)


def test_line_chart_of_one_point_names_its_place_alone():
    svg = charts.line_chart('t', [Series('a', [300], [0.5], 'eval')])
    assert re.findall(r'class="mid">([^<]*)<', svg) == ['300']


@pytest.mark.parametrize('first', [0, 200, 20_000])
def test_the_name_of_the_axis_ends_before_its_first_label(first):
    svg = charts.line_chart('t', [Series('a', [first, first + 800], [0.1, 0.2], 'eval')])
    (end,) = re.findall(r'x="([\d.]+)" y="[\d.]+" class="end">step<', svg)
    labels = re.findall(r'x="([\d.]+)" y="[\d.]+" class="mid">([^<]*)<', svg)
    begin = min(float(x) - charts.LETTER * len(text) / 2 for x, text in labels)
    assert 4 * charts.LETTER <= float(end) < begin


def test_line_chart_is_logarithmic_over_large_ratios():
    svg = charts.line_chart('t', [Series('a', [0, 1, 2], [1e-4, 1e-2, 1.0], 'eval')])
    (_, y0), (_, y1), (_, y2) = marks(svg)
    assert 'log scale' in svg and y0 - y1 == pytest.approx(y1 - y2, abs=0.15)
    assert 'log scale' not in charts.line_chart('t', [Series('a', [0, 1], [0.0, 1.0], 'eval')])


def test_line_chart_of_long_and_noisy_training():
    rng = np.random.default_rng(0)
    xs = list(range(5000))
    svg = charts.line_chart('t', [Series('train', xs, rng.normal(size=5000).tolist(), 'train')])
    assert polylines(svg, 't').keys() == {'line train', 'line train faint'}
    assert (
        max(polylines(svg, 't').values()) <= charts.MAX_POINTS
        and len(marks(svg)) <= charts.MAX_MARKS
    )
    assert '<title>train, step 4,999:' in svg  # the last point is there
    smooth = charts.line_chart('t', [Series('train', xs, xs, 'train')])
    assert polylines(smooth, 't').keys() == {'line train'}


def test_line_chart_splits_where_a_resumed_run_goes_back():
    svg = charts.line_chart('t', [Series('a', [1, 2, 3, 2, 3], [1.0, 2, 3, 4, 5], 's2')])
    assert [len(p.split()) for p in re.findall(r'points="([^"]*)"', svg)] == [3, 2]


def test_line_chart_of_nothing_and_of_one_point():
    assert charts.line_chart('t', [Series('a', [1, 2], [None, None], 'eval')]) == ''
    Page(charts.line_chart('t', [Series('a', [3], [0.0], 'eval')], [Reference('base', 0.0)]))


def test_histograms_stand_below_each_other_each_on_its_own_scale():
    counts = {'start & end': [0, 0, 512, 0], 'now': [4, 8, 2, 0]}
    svg = charts.histogram('fc6 <dilation>', [4.0, 8.0, 12.0, 16.0, 20.0], counts)
    Page(svg)
    paths = re.findall(r'class="fill" d="M([\d.]+) (\d+)((?:V[\d.]+H[\d.]+)+)V(\d+)Z"', svg)
    assert len(paths) == 2
    ticks = {
        float(t): float(x)
        for x, t in re.findall(r'x="([\d.]+)" y="[\d.]+" class="mid">([\d.]+)<', svg)
    }
    for (left, foot, steps, _), numbers in zip(paths, counts.values(), strict=True):
        corners = [(float(y), float(x)) for y, x in re.findall(r'V([\d.]+)H([\d.]+)', steps)]
        heights = [float(foot) - y for y, _ in corners]
        assert heights == pytest.approx([28 * n / max(numbers) for n in numbers], abs=0.06)
        edges = [float(left), *(x for _, x in corners)]
        assert np.diff(edges) == pytest.approx(np.full(4, (edges[-1] - edges[0]) / 4), abs=0.11)
        assert edges[-1] == pytest.approx(ticks[20.0], abs=0.11)
    assert float(paths[0][1]) < float(paths[1][1]), 'in the order given'
    assert '<title>start &amp; end: 512 values, most (512) from 12 to 16</title>' in svg
    assert '<title>now: 14 values, most (8) from 8 to 12</title>' in svg
    assert charts.histogram('t', [1.0, 2.0], {}) == ''
    Page(charts.histogram('t', [1.0, 2.0], {'none': [0]}))


def test_report_draws_histograms_among_the_scores(workdir, spec):
    one = {'edges': [1, 2, 4], 'counts': {'start': [0, 6], 'now': [2, 4]}}
    scores = {
        **SCORES,
        'factors': {'vgg/conv5_1': one, 'fc6': one},
        'broken': {'edges': [1], 'counts': {'now': [2]}},
    }
    files.write_json(workdir / 'segmentation/scores.json', scores)
    text, page = write(workdir, spec)
    assert 'class="note"' not in text
    assert 'factors / vgg/conv5_1' in page.words and 'factors / fc6' in page.words
    assert text.count('<title>now: 6 values, most (4) from 2 to 4</title>') == 2
    assert 'broken' not in page.words


def test_confusion_matrix_of_many_classes_stays_light():
    number = 150
    counts = np.random.default_rng(0).integers(0, 3, (number, number)) + 10000 * np.eye(
        number, dtype=int
    )
    svg = charts.confusion_matrix([f'class {i}' for i in range(number)], counts.tolist())
    Page(svg)
    assert svg.count('<rect') == number + 1 and '<text' not in svg
    assert 'class 149, right' in svg


def test_dot_plot_places_values_ranges_and_references_on_one_axis():
    dots = [
        Dot('a & b', 2.0, 1.0, 4.0, 3.0),
        Dot('c', 4.0, 4.0, 4.0, None),
        Dot('d', None, None, None, 1.0, 'diverged'),
    ]
    svg = charts.dot_plot('score', dots, ('ours', 'published'))
    Page(svg)
    legend, plot = svg.split('</figcaption>')
    (x2, y0), (x4, y1) = marks(plot)
    unit = (x4 - x2) / 2
    ((low, high, at),) = re.findall(
        r'class="whisker" d="M([\d.]+) ([\d.]+)H([\d.]+)"', plot
    )  # none where there is no range
    assert (float(low), float(at), float(high)) == pytest.approx((x2 - unit, x4, y0), abs=0.15)
    diamonds = [
        (float(x) + 5, float(y))
        for x, y in re.findall(r'class="diamond" d="M([\d.]+) ([\d.]+)l', plot)
    ]
    assert diamonds[0] == pytest.approx((x2 + unit, y0), abs=0.15) and diamonds[1][
        0
    ] == pytest.approx(x2 - unit, abs=0.15)
    assert y0 < y1 < diamonds[1][1], 'in the order given'
    ticks = {
        float(t): float(x)
        for x, t in re.findall(r'x="([\d.]+)" y="[\d.]+" class="mid">([\d.]+)<', plot)
    }
    assert ticks[2] == pytest.approx(x2, abs=0.11) and ticks[4] == pytest.approx(x4, abs=0.11)
    assert (
        '<title>a &amp; b; ours 2, 1 to 4; published 3</title>' in plot
        and '>diverged</text>' in plot
    )
    assert 'ours' in legend and 'published' in legend and legend.count('class="disc"') == 1
    assert charts.dot_plot('score', [Dot('a', None, None, None, None)], ('ours', 'published')) == ''


def test_dot_plot_shortens_long_names_and_tells_them_on_hover():
    name = 'a name that is much longer than there is room for'
    svg = charts.dot_plot('t', [Dot(name, 1.0, 1.0, 1.0, None)], ('ours', 'published'))
    (shown,) = re.findall(r'class="end">([^<]*)<', svg)
    start, end = shown.split('…')
    assert (
        name.startswith(start) and name.endswith(end) and 0 <= len(start) - len(end) <= 1 < len(end)
    )
    assert f'<title>{name}; ours 1, 1 to 1</title>' in svg


def test_scatter_plot_places_dots_ranges_and_references_on_both_axes():
    points = [
        Point('a & b', Span(2.0, 1.0, 4.0), Span(10.0, 5.0, 15.0), (3.0, 15.0)),
        Point('c', Span(4.0, 4.0, 4.0), Span(20.0, 20.0, 20.0)),
    ]
    svg = charts.scatter_plot('y over x', points, ('x', 'y'), ('ours', 'published'), 'best: top')
    Page(svg)
    _, plot = svg.split('</figcaption>')
    (x2, y10), (x4, y20) = marks(plot)
    across = (x4 - x2) / 2
    upright = (y20 - y10) / 10
    assert across > 0 > upright

    # None where there is no range.
    ((low, at, high),) = re.findall(r'class="whisker" d="M([\d.]+) ([\d.]+)H([\d.]+)"', plot)
    assert (float(low), float(at), float(high)) == pytest.approx((x2 - across, y10, x4), abs=0.15)
    ((at, low, high),) = re.findall(r'class="whisker" d="M([\d.]+) ([\d.]+)V([\d.]+)"', plot)
    expected = (x2, y10 - 5 * upright, y10 + 5 * upright)
    assert (float(at), float(low), float(high)) == pytest.approx(expected, abs=0.15)
    ((x, y),) = re.findall(r'class="diamond" d="M([\d.]+) ([\d.]+)l', plot)
    expected = (x2 + across, y10 + 5 * upright)
    assert (float(x) + 5, float(y)) == pytest.approx(expected, abs=0.15)
    assert '<title>a &amp; b; ours: x 2, 1 to 4; y 10, 5 to 15</title>' in plot
    assert '<title>a &amp; b; published: 3, 15</title>' in plot
    assert '<small>best: top</small>' in svg and 'left out' not in svg
    assert charts.scatter_plot('y over x', [], ('x', 'y'), ('ours', 'published')) == ''


def test_scatter_plot_names_its_axes_and_the_names_without_a_dot():
    point = Point('a', Span(2.0, 1.0, 4.0), Span(10.0, 5.0, 15.0))
    axes = ('far [m]', 'SSIM <%>')
    svg = charts.scatter_plot('t', [point], axes, ('ours', 'published'), left_out=('b & c', 'd'))
    Page(svg)
    assert '</svg><small>left out, without both numbers: b &amp; c; d</small></figure>' in svg
    (box,) = re.findall(r'viewBox="([-\d. ]+)" role', svg)
    left, top, _, height = map(float, box.split())

    # The names lie in the picture, below and left of the numbers of the ticks.
    ticks = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="(mid|end)">([\d.]+)<', svg)
    (below,) = re.findall(r'y="(\d+)" class="mid">far \[m\]<', svg)
    lowest = max(float(y) for _, y, css, _ in ticks if css == 'mid')
    assert lowest + 12 <= float(below) < top + height
    ((beside, upright),) = re.findall(
        r'translate\((-?\d+) ([\d.]+)\) rotate\(-90\)" class="mid">SSIM &lt;%&gt;<', svg
    )
    reach = [float(x) - charts.LETTER * len(tick) for x, _, css, tick in ticks if css == 'end']
    assert left + 8 <= float(beside) < min(reach)
    assert top < float(upright) < lowest


def boxes_of(svg: str, points: list[Point]) -> list[tuple[float, float, float]]:
    """Returns (left, baseline, right) of the names of dots."""
    names = '|'.join(point.name for point in points)
    boxes = []
    for x, y, css, name in re.findall(
        rf'<text x="([\d.]+)" y="([\d.]+)" class="(|end)">({names})<', svg
    ):
        length = charts.LETTER * len(name)
        left = float(x) - length if css else float(x)
        boxes.append((left, float(y), left + length))
    assert len(boxes) == len(points)
    return boxes


def at_places(places) -> list[Point]:
    """Returns points without ranges, with long names."""
    points = []
    for i, (x, y) in enumerate(places):
        points.append(Point(f'row number {i} of all', Span(x, x, x), Span(y, y, y)))
    return points


PLACES = np.random.default_rng(0).uniform(0, 1, (8, 2))


@pytest.mark.parametrize(
    'places',
    [
        # Two dots are at the same place, and a dot is at the right end.
        [*PLACES, PLACES[0], (1.2, 0.5)],
        # A crowd in a corner of the plot.
        [(1.0, 1.0), *(0.03 * PLACES)],
    ],
    ids=['everywhere', 'in a corner'],
)
def test_names_in_a_scatter_plot_do_not_hide_each_other(places):
    points = at_places(places)
    svg = charts.scatter_plot('t', points, ('x', 'y'), ('ours', 'published'))
    boxes = boxes_of(svg, points)
    for (left, y, right), (other_left, other_y, other_right) in itertools.combinations(boxes, 2):
        apart = abs(y - other_y) >= 11.9
        assert apart or right <= other_left + 0.1 or other_right <= left + 0.1
    assert all(left > 40 and right <= 541 for left, _, right in boxes)


def test_a_name_away_from_its_dot_has_a_line_to_it():
    points = at_places([(1.0, 1.0), *(0.03 * PLACES)])
    svg = charts.scatter_plot('t', points, ('x', 'y'), ('ours', 'published'))
    lines = re.findall(r'class="axis" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', svg)
    ends = {(float(x), float(y)): float(name_y) for x, y, _, name_y in lines}
    assert ends.keys() < set(marks(svg))
    for dot, (_, baseline, _) in zip(marks(svg.split('</figcaption>')[1]), boxes_of(svg, points)):
        # The box of a name reaches from 9 pixels above its baseline to 3 below.
        away = max(dot[1] - baseline - 3, baseline - 9 - dot[1])
        assert (away > 0.2) == (dot in ends), away
        if dot in ends:
            assert ends[dot] == pytest.approx(baseline - 3, abs=0.1)


def bars_of(svg: str) -> list[tuple[str, float, float, str]]:
    """Returns (class, x, height, title) of the bars, without the bars of the legend."""
    found = re.findall(
        r'<rect class="([^"]*)" x="([\d.]+)" y="[\d.]+" width="[\d.]+" height="([\d.]+)">'
        r'<title>(.*?)</',
        svg,
    )
    return [(css, float(x), float(height), title) for css, x, height, title in found]


def test_grouped_bars_are_as_high_as_their_values_and_stand_by_group():
    svg = charts.grouped_bars(
        'IoU', ['road', 'car <2>'], [Bars('ours', [50.0, 25.0]), Bars('theirs', [None, 75.0])]
    )
    Page(svg)
    found = {title: (css, x, height) for css, x, height, title in bars_of(svg)}
    assert list(found) == ['road, ours: 50', 'car &lt;2&gt;, ours: 25', 'car &lt;2&gt;, theirs: 75']
    (road, car, theirs) = found.values()
    assert (
        road[2] / 50
        == pytest.approx(car[2] / 25, abs=0.01)
        == pytest.approx(theirs[2] / 75, abs=0.01)
    )
    assert road[0] == car[0] == 'bar b0' and theirs[0] == 'bar b1'
    assert road[1] < car[1] < theirs[1]
    ticks = {
        float(t): float(y) - 3.5 for y, t in re.findall(r'y="([\d.]+)" class="end">([\d.]+)<', svg)
    }
    assert (ticks[0] - ticks[40]) / 40 == pytest.approx(road[2] / 50, abs=0.01)
    assert charts.grouped_bars('IoU', ['road'], [Bars('ours', [None])]) == ''


def test_sixteen_bars_for_each_of_twenty_classes_can_be_told_apart():
    classes = [f'class {i}' for i in range(20)]
    svg = charts.grouped_bars(
        'IoU', classes, [Bars(f'row {k}', [k + i for i in range(20)]) for k in range(16)]
    )
    Page(svg)
    found = bars_of(svg)
    assert len(found) == 16 * 20 and len({css for css, *_ in found}) == 16
    by_title = {title: (css, x) for css, x, _, title in found}
    for i in range(20):
        xs = [by_title[f'class {i}, row {k}: {k + i}'][1] for k in range(16)]
        assert np.diff(xs).min() >= 5, 'pixels from bar to bar'
    panels = re.findall(r'<svg viewBox="0 0 (\d+) \d+" style.*?</svg>', svg)
    assert len(panels) == 2 and max(map(int, panels)) <= 1090, 'as wide as the page'
    assert [panel.count('class="mid"') for panel in svg.split('role="img"')[1:]] == [10, 10]
    for css in {css for css, *_ in found}:
        assert f'.{css.split()[1]} {{' in charts.STYLE


WITH_VOID = {
    **SCORES, 'mIoU_with_void': 0.4, 'PSNR': 21.5, 'rotation_error': 0.25, 'trajectory_error': 0.5,
    'confusion': [[60, 2, 3, 0, 5], [6, 4, 0, 0, 0], [9, 1, 10, 0, 0], [0, 0, 0, 0, 0]],
    'watermark': {'none': {'PSNR': 12.5, 'SNR': 3.5}},
}  # fmt: skip


def test_pixels_predicted_as_void_count_in_the_shares(workdir, spec):
    files.write_json(workdir / 'segmentation/scores.json', WITH_VOID)
    text, page = write(workdir, spec)
    assert 'class="note"' not in text
    table = re.search(r'<table class="bars">.*?</table>', text, re.S).group()
    rows = [
        re.sub(r'\s+', ' ', re.sub(r'<[^>]+>', ' ', row)).split() for row in table.split('<tr>')[2:]
    ]
    assert rows[0] == ['road', '90.00', '95.00', '70.00', '70.00']
    assert '<title>road, right: 85.71 % (60 pixels)</title>' in text
    assert (
        'Void was predicted for 5.00 % of the pixels, which are in the shares and have no column.'
        in page.words
    )


def test_scores_have_units_and_void_is_explained(workdir, spec):
    files.write_json(workdir / 'segmentation/scores.json', WITH_VOID)
    _, page = write(workdir, spec)
    for words in (
        'PSNR 21.5 dB',
        'rotation error 0.25 degrees',
        'trajectory error 0.5 m',
        'PSNR dB SNR dB',
        'rmse 4.25 m',
    ):
        assert words in page.words, words
    assert scores.MEANINGS['mIoU_with_void'] in page.words


def test_scores_of_boundaries_are_shares():
    for name in ('ODS_F', 'ODS_recall', 'OIS_F', 'AP', 'boundaries/ODS_precision'):
        assert scores.is_share(name), name
    assert not scores.is_share('best_threshold')


def test_scores_of_attacks_are_shares():
    for name in ('AUC', 'TPR_at_1_percent', 'attacks/loss/AUC', 'attacks/loss/TPR_at_0.1_percent'):
        assert scores.is_share(name), name
    assert scores.with_unit('AUC') == 'AUC %' and scores.format_score('AUC', 0.5) == '50.00 %'


def test_a_table_of_intervals_has_the_units_of_its_rows():
    row = {'mean': 0.5, 'low': 0.25, 'high': 0.75}
    table = {'tIOU': row, 'hamm over mean_shape': row, 'NN': row, 'PSNR': row}
    columns = dict(scores.table_columns(table))
    assert columns['mean'] == ['50.00 %', '50.00 %', '0.5 pixels', '0.5 dB']
    assert columns['high'] == ['75.00 %', '75.00 %', '0.75 pixels', '0.75 dB']
    assert scores.with_unit('intervals/PSNR/low') == 'intervals/PSNR/low dB'
    assert not scores.is_share('low')


def test_nested_scores_have_units():
    section = {'class_entropy': {'road': 1.5}, 'factors': {'road': 2.0}}
    lines = scores.score_table(section).splitlines()
    assert 'class entropy in nats' in lines and 'factors' in lines
    assert scores.with_unit('class_entropy/road') == 'class entropy/road nats'
    assert scores.format_score('entropy', 1.5) == '1.5 nats'


@pytest.mark.parametrize('name', ['synthetic_mIoU', 'gain_mIoU'])
def test_scores_of_synthetic_features_are_explained(name):
    assert scores.MEANINGS[name] in ' '.join(scores.score_table({name: 0.5}).split())


def test_curves_have_units(workdir):
    log = log_files.MetricsLog(workdir / 'segmentation', 12)
    log.write(13, 'eval', {'rmse': 4.5})
    log.close()
    text, _ = write(workdir)
    assert polylines(text, 'rmse m') == {'line eval': 1}


def test_badges_are_escaped():
    shown = html.badges(['5 members', HOSTILE])
    assert Page(shown).words == f'5 members {HOSTILE}' and Page(shown).tags == ['ul', 'li', 'li']
