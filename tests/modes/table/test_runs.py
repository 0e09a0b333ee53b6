"""Tests the outcome in a run folder, and when a run is trained again."""

import json
import pathlib

import pytest
from paper_table import RESULTS, runs, start

from segjax.config.config_file import Assignment
from segjax.core import files
from segjax.modes.table.plan import make_table_plan
from segjax.modes.table.runs import OPEN, outcome
from segjax.train.stop import Preempted


def test_keys_that_change_no_result_do_not_make_a_run_again_and_the_policy_does(
    table_file, trained
):
    start(table_file, seeds='0')
    trained.clear()
    start(
        table_file,
        seeds='0',
        assignments=[Assignment('logging.num_pictures', '0'), Assignment('data.threads', '2')],
    )
    assert trained == []
    start(table_file, seeds='0', assignments=[Assignment('evaluate.policy', 'absent_zero')])
    assert runs(trained) == [('base', 0), ('thin', 0), ('strong', 0)]


def test_a_run_that_is_older_than_a_key_of_the_evaluation_is_not_made_again(table_file, trained):
    start(table_file, seeds='0')
    for path in pathlib.Path('runs').glob('*/seed_0/config.json'):
        stored = json.loads(path.read_text())
        del stored['evaluate']['resolution']
        path.write_text(json.dumps(stored))
    trained.clear()
    start(table_file, seeds='0')
    assert trained == []
    start(table_file, seeds='0', assignments=[Assignment('evaluate.resolution', 'image')])
    assert runs(trained) == [('base', 0), ('thin', 0), ('strong', 0)]


def test_old_scores_are_not_taken_for_those_of_an_interrupted_run(table_file, trained, monkeypatch):
    start(table_file, seeds='0')
    policy = [Assignment('evaluate.policy', 'absent_zero')]
    monkeypatch.setitem(RESULTS, ('base', 0), Preempted('in the evaluation'))
    with pytest.raises(Preempted):
        start(table_file, seeds='0', assignments=policy)
    planned = make_table_plan(str(table_file), 'quick', 'runs', seeds='0', assignments=policy).runs
    assert files.read_json(planned[0].folder / 'config.json')['evaluate']['policy'] == 'absent_zero'
    assert outcome(planned[0]) == OPEN


def test_a_run_that_diverged_is_noted_and_tried_again_only_without_the_note(
    table_file, trained, capsys
):
    start(table_file, seeds='2')
    assert runs(trained) == [('base', 2), ('thin', 2), ('strong', 2)]
    assert "diverged: thin, seed 2: stage 'last', step 7" in capsys.readouterr().out
    note = pathlib.Path('runs/thin/seed_2/failed.json')
    assert json.loads(note.read_text()) == {'message': str(RESULTS['thin', 2])}
    note.unlink()
    trained.clear()
    start(table_file, seeds='2')
    assert runs(trained) == [('thin', 2)] and note.exists()
