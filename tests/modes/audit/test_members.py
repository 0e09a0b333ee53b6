"""Lists of members: what they may look like, and what is refused."""

import pathlib

import numpy as np
import pytest

from segjax.errors import InputError
from segjax.modes.audit import members


def write(folder, name, text):
    path = folder / name
    path.write_text(text)
    return path


NAMES = [f'n{i}' for i in range(10)]


def test_text_files_of_both_kinds(tmp_path):
    inside = write(tmp_path, 'in.txt', '# of the victim\n n1 \n\nn0.npz\nn2\nn3\nn4\n')
    outside = write(tmp_path, 'out.txt', 'n5\nn6\nn7\nn8\nn9\n')
    lists = members.read(inside, outside)
    assert lists.members == ('n1', 'n0', 'n2', 'n3', 'n4') and lists.nonmembers[0] == 'n5'
    asked = members.choose(lists, NAMES, 'here')
    assert asked.names == (*lists.members, *lists.nonmembers)
    np.testing.assert_array_equal(asked.member, [True] * 5 + [False] * 5)


def test_without_a_list_all_further_images_are_no_members(tmp_path):
    lists = members.read(write(tmp_path, 'in.txt', '\n'.join(NAMES[3:8])))
    assert lists.nonmembers is None
    assert members.choose(lists, NAMES, 'here').names[5:] == ('n0', 'n1', 'n2', 'n8', 'n9')


def test_a_csv_names_both_kinds(tmp_path):
    text = 'Name, Member\nn0,1\nn1,TRUE\n\nn2,0\nn3,false\n'
    lists = members.read(write(tmp_path, 'list.csv', text))
    assert lists.members == ('n0', 'n1') and lists.nonmembers == ('n2', 'n3')
    only = members.read(write(tmp_path, 'only.csv', 'name,member\nn0,1\n'))
    assert only.members == ('n0',) and only.nonmembers is None


@pytest.mark.parametrize(
    'inside, outside, fragments',
    [
        ('n0\nn1', 'n1\nn2', ['1 images that are members and non-members: n1']),
        ('n0\nn1\nn0', None, ['line 3', "'n0', which is in line 1 too", 'remove line 3']),
        ('\n# nothing\n', None, ['no names']),
        ('n0', '', ['--nonmembers', 'no names']),
    ],
)
def test_wrong_text_files(tmp_path, inside, outside, fragments):
    first = write(tmp_path, 'in.txt', inside)
    second = None if outside is None else write(tmp_path, 'out.txt', outside)
    with pytest.raises(InputError) as error:
        members.read(first, second)
    for fragment in fragments:
        assert fragment in str(error.value)


@pytest.mark.parametrize(
    'text, fragments',
    [
        ('image,in\nn0,1\n', ['line 1', 'got:      image,in', 'name,member']),
        ('', ['got:      nothing']),
        ('name,member\nn0,2\n', ['line 2', 'n0,2', '1 or 0']),
        ('name,member\nn0\n', ['line 2']),
        ('name,member\nn0,1\nn0,1\n', ["'n0', which is in line 2 too"]),
        ('name,member\nn0,1\nn1,1\nn0,0\n', ['members and non-members: n0']),
        ('name,member\nn0,0\n', ['no names']),
    ],
)
def test_wrong_csv(tmp_path, text, fragments):
    with pytest.raises(InputError) as error:
        members.read(write(tmp_path, 'list.csv', text))
    for fragment in fragments:
        assert fragment in str(error.value)


def test_a_csv_needs_no_second_file(tmp_path):
    path = write(tmp_path, 'list.csv', 'name,member\nn0,1\n')
    with pytest.raises(InputError, match='leave --nonmembers out'):
        members.read(path, path)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match='no such file'):
        members.read(pathlib.Path(tmp_path / 'none.txt'))


def test_images_in_no_list():
    lists = members.Lists(tuple(NAMES[:5]), tuple(NAMES[5:8]), 'lists')
    with pytest.raises(InputError, match='2 images of here in no list: n8, n9'):
        members.choose(lists, NAMES, 'here')


def test_unknown_names_and_too_few(tmp_path):
    lists = members.read(write(tmp_path, 'in.txt', 'n0\nn11\nx\nn3\nn4'))
    with pytest.raises(InputError) as error:
        members.choose(lists, NAMES, 'folder p')
    for fragment in ("'n11', and 1 more, which folder p lacks", 'n0, n1, n2, ...', "mean 'n1'"):
        assert fragment in str(error.value)
    with pytest.raises(InputError, match='4 members'):
        members.choose(members.Lists(('n0', 'n1', 'n2', 'n3'), None, 'lists'), NAMES, 'p')
    with pytest.raises(InputError, match=r'(?s)4 non-members.*fewer images as members'):
        members.choose(members.Lists(tuple(NAMES[:6]), None, 'lists'), NAMES, 'p')
    with pytest.raises(InputError, match=r'(?s)4 non-members.*leave --nonmembers out'):
        members.choose(members.Lists(tuple(NAMES[:6]), tuple(NAMES[6:]), 'lists'), NAMES, 'p')
