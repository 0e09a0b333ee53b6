"""What the benchmarks share: the report's place, and the exit code of a record with errors."""

import pytest

from benchmarks import options
from segjax.errors import EXIT_WRONG, InputError


def test_a_report_has_two_files_in_a_new_folder(tmp_path):
    report = options.report(str(tmp_path / 'new/bench'))
    report.write({'rates': {}}, '# Page\n')
    assert report.record == tmp_path / 'new/bench.json'
    assert report.page.read_text() == '# Page\n'


def test_a_report_without_a_name_is_refused():
    with pytest.raises(InputError, match="got:      ''"):
        options.report('')


def test_a_report_inside_a_file_is_refused(tmp_path):
    (tmp_path / 'file').write_text('mine')
    with pytest.raises(InputError, match='a folder to write to'):
        options.report(str(tmp_path / 'file/inside/bench'))


@pytest.mark.parametrize(
    'record, expected',
    [
        ({'nets': {'fcn': {'sides': {'torch': {'seconds': [1.0]}}}}}, False),
        ({'nets': {'fcn': {'sides': {'torch': {'error': 'torch: no reply'}}}}}, True),
        ({'formats': {'png': {'rates': {}, 'errors': {}}}}, False),
        ({'formats': {'png': {'rates': {}, 'errors': {'threads 1': 'too slow'}}}}, True),
        (None, False),
    ],
)
def test_a_record_has_errors_at_any_depth(record, expected):
    assert options.has_errors(record) == expected


@pytest.mark.parametrize('record, code', [({}, 0), ({'errors': {'std2p': 'no depth'}}, EXIT_WRONG)])
def test_the_exit_code_says_whether_a_part_failed(record, code):
    with pytest.raises(SystemExit) as ended:
        options.run_main(lambda argv: record)
    assert ended.value.code == code
