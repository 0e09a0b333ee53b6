"""Tests the content of table.html."""

import pathlib
import re
import xml.etree.ElementTree as ElementTree

from paper_table import FILE, RESULTS, run_scores, start

from segjax.metrics import curves
from segjax.modes.table import page as table_page
from segjax.modes.table.spec import Row, Table


def page_of(outputs) -> ElementTree.Element:
    text = (outputs / 'table.html').read_text()
    assert not re.search(r'<script|<link|url\(|@import', text)
    return ElementTree.fromstring(
        re.search(r'<main>.*</main>', text, re.DOTALL)[0].replace('<br>', '<br/>')
    )


def words(element) -> str:
    return ' '.join(' '.join(element.itertext()).split())


def test_page_has_the_table_and_links_to_the_reports(outputs):
    page = page_of(outputs)
    first, claims, listing = page.iter('table')
    lines = [[words(cell) for cell in row] for row in first.iter('tr')]
    assert lines[0] == ['row', 'width', 'mIoU [%]', 'published', 'error', 'published']
    assert lines[4] == ['strong <aug>', '', '45.0 ± 1.0 (3 seeds)', '43.3', '', '']
    assert [b.text for b in first.iter('b')] == ['45.0 ± 1.0']
    assert 'holds, within spread' in words(claims)
    links = {a.get('href'): a.text for a in listing.iter('a')}
    assert (
        len(links) == 9
        and links['thin/seed_2/report.html'] == 'diverged'
        and links['base/seed_0/report.html']
    )
    assert "thin, seed 2 diverged: stage 'last', step 7" in words(page)


def test_page_compares_the_classes_of_the_rows_that_the_table_names(outputs):
    (chart,) = [
        f for f in page_of(outputs).iter('figure') if 'IoU [%], mean over the seeds' in words(f)
    ]
    titles = [title.text for title in chart.iter('title')]
    # base: (50 + 75 + 100) / 3 for road, no car in any of its runs; thin is not compared.
    assert titles == ['road, strong <aug>: 25', 'car, strong <aug>: 12.5', 'road, as published: 75']


def test_without_a_choice_the_first_five_rows_are_compared(table_file, trained):
    table_file.write_text(FILE.replace("compare=('strong', 'base'),", ''))
    start(table_file, seeds='0')
    titles = [title.text for title in page_of(pathlib.Path('runs')).iter('title')]
    assert 'road, as published: 50' in titles and 'road, strong <aug>: 25' in titles


def test_page_plots_each_column_beside_the_published_numbers(outputs):
    figures = {words(f.find('figcaption/b')): f for f in page_of(outputs).iter('figure')}
    titles = [title.text for title in figures['mIoU [%]'].iter('title')]
    assert titles[0] == 'as published; ours: mean, min to max 42, 40 to 44; published 40.2'
    assert len(titles) == 3
    titles = [title.text for title in figures['error'].iter('title')]
    assert titles[1] == 'half | as wide; published 0.5' and titles[2] == 'strong <aug>'


def test_a_scatter_plot_has_the_rows_with_numbers_in_both_columns(table_file, trained):
    text = FILE.replace('compare=(', "scatters=(Scatter('error', 'mIoU'),), compare=(")
    table_file.write_text(text.replace('Claim, Column', 'Claim, Column, Scatter'))
    start(table_file)
    figures = {
        words(f.find('figcaption/b')): f for f in page_of(pathlib.Path('runs')).iter('figure')
    }
    figure = figures['mIoU [%] over error']
    (title,) = [title.text for title in figure.iter('title')]
    ours = 'ours: mean, min to max: error 0.5, 0.25 to 0.75; mIoU [%] 42, 40 to 44'
    assert title == f'as published; {ours}'
    assert words(figure.find('figcaption/small')) == 'best: top left'
    names = 'half | as wide; strong <aug>'
    assert words(figure.find('small')) == f'left out, without both numbers: {names}'
    texts = [words(text) for text in figure.iter('text')]
    assert texts.count('error') == texts.count('mIoU [%]') == 1


def test_plots_call_rows_of_one_name_by_their_keys(table_file, trained):
    table_file.write_text(FILE.replace("'strong <aug>'", "'as published'"))
    start(table_file, seeds='0')
    titles = [title.text for title in page_of(pathlib.Path('runs')).iter('title')]
    assert 'strong; ours: mean, min to max 45, 45 to 45; published 43.3' in titles
    assert {'road, strong: 25', 'road, base: 50'} <= set(titles)
    assert pathlib.Path('runs/table.md').read_text().count('\n| as published ') == 2


def test_curves_have_a_line_for_each_row_that_has_them(table_file, trained, monkeypatch):
    def results(miou, *lines):
        series = {name: ([0.01, 0.1, 1], y) for name, y in lines}
        roc = curves.curve(series, 'false positive rate', 'true positive rate', 'log')
        scores = run_scores(miou)
        return {**scores, 'last': {**scores['last'], 'roc': roc}}

    monkeypatch.setitem(RESULTS, ('base', 0), results(0.40, ('loss', [0.1, 0.4, 1])))
    monkeypatch.setitem(RESULTS, ('base', 1), results(0.42, ('loss', [0.3, 0.6, 1])))
    both = (('loss', [0, 0.2, 1]), ('gradient', [0, 0.1, 1]))
    monkeypatch.setitem(RESULTS, ('strong', 0), results(0.45, *both))
    monkeypatch.setitem(RESULTS, ('strong', 1), results(0.46, *both))
    start(table_file, seeds='0,1')
    (chart,) = [f for f in page_of(pathlib.Path('runs')).iter('figure') if 'roc:' in words(f)]
    assert words(chart.find('figcaption/b')) == ('roc: true positive rate over false positive rate')
    legend = [words(key) for key in chart.findall("figcaption/span[@class='keys many']/span")]
    assert legend == ['as published', 'strong <aug>: loss', 'strong <aug>: gradient']
    titles = [title.text for title in chart.iter('title')]
    assert titles[0] == 'as published, false positive rate 0.01: 0.2', 'the mean over the seeds'
    assert not any('as wide' in title for title in titles), 'this row has no curve'


def test_rows_of_one_name_are_plotted_with_their_labels_or_keys():
    rows = (
        Row('a', 'Argmax', 'x.py', labels={'adversary': 'A1'}),
        Row('b', 'Argmax', 'x.py', labels={'adversary': 'A2'}),
        Row('c', 'None', 'x.py', labels={'adversary': 'A1'}),
        Row('d', 'Noise', 'x.py'),
        Row('e', 'Noise', 'x.py'),
    )
    table = Table('', '', (), rows, {})
    names = [table_page.plot_name(table, row) for row in rows]
    assert names == ['Argmax (A1)', 'Argmax (A2)', 'None', 'd', 'e']
