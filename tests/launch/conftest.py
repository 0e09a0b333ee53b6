"""A copy of launch/ for its tests, at a path with a space.

PATH has nothing but named tools and stubs. No network, no cluster: pip, nvidia-smi, sbatch, srun,
gcloud and kubectl are stubs that record their call.
"""

import json
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
TOOLS = """
    basename bash cat cp cut dirname env find git grep gzip hostname kill ls mkdir mktemp mv nohup
    rm sed seq setsid sh sleep tail tar touch tr wc
"""
REAL_PYTHON = sys._base_executable

# Stands for an interpreter. Makes environments that are copies of itself, and records the requests
# to pip.
FAKE_PYTHON = f"""
case " $* " in
  *_base_executable*) echo "$0" ;;
  *' -m venv '*)
    mkdir -p "${{@: -1}}/bin" && cp "$0" "${{@: -1}}/bin/python" && echo venv >>"$CALLS" ;;
  *' -m pip '*)
    echo "pip ${{*: -1}}" >>"$CALLS"
    sleep "${{PIP_SECONDS:-0}}"
    echo 'WARNING: Location of no interest'
    echo 'pip says no'
    exit "${{PIP_CODE:-0}}" ;;
  *) exec {shlex.quote(REAL_PYTHON)} "$@" ;;
esac
"""

# Stands for segjax.main. Writes down how it was called, then obeys its variables. On SIGTERM it
# 'saves'.
FAKE_MAIN = """
import json, os, pathlib, signal, sys, time

def stop(*_):
    time.sleep(float(os.environ.get('MAIN_SAVES', 0)))
    sys.exit(75)

signal.signal(signal.SIGTERM, stop)
seen = {'argv': sys.argv[1:], 'cwd': os.getcwd(), 'pid': os.getpid(), 'env': dict(os.environ)}
path = pathlib.Path(os.environ['SEEN'])
path.with_suffix('.part').write_text(json.dumps(seen))
path.with_suffix('.part').rename(path)
print('main was here', flush=True)
time.sleep(float(os.environ.get('MAIN_SECONDS', 0)))
sys.exit(int(os.environ.get('MAIN_CODE', 0)))
"""


class Tree:
    """A copy of launch/ in a folder of its own, with its own PATH and HOME."""

    real_python = REAL_PYTHON

    def __init__(self, folder: pathlib.Path):
        self.root = folder / 'seg jax'
        self.bin, self.home, self.cwd = folder / 'bin', folder / 'home', folder / 'else where'
        for path in (
            self.bin,
            self.home,
            self.cwd,
            self.root / 'segjax',
            self.root / 'configs/tables',
        ):
            path.mkdir(parents=True)
        shutil.copytree(REPOSITORY / 'launch', self.root / 'launch')
        (self.root / 'requirements.txt').write_text('jax>=0.10\n')
        (self.root / 'constraints.txt').write_text('jax==0.10.2\n')
        (self.root / 'configs/streets.py').write_text('')
        (self.root / 'configs/tables/two.py').write_text('')
        (self.root / 'segjax/__init__.py').write_text('')
        (self.root / 'segjax/main.py').write_text(FAKE_MAIN)
        for tool in TOOLS.split():
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.calls, self.seen = folder / 'calls', folder / 'seen.json'
        self.env = {
            'PATH': str(self.bin),
            'HOME': str(self.home),
            'CALLS': str(self.calls),
            'SEEN': str(self.seen),
        }
        self.tool('python3', FAKE_PYTHON)
        self.venv = self.root / '.venv'
        self.stamp = self.venv / 'segjax.stamp'

    def tool(self, name: str, body: str) -> None:
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text('#!/usr/bin/env bash\n' + body)
        path.chmod(0o755)

    def recorder(self, name: str, body: str = '') -> None:
        """A stub that appends its quoted call to `calls`."""
        self.tool(name, f'printf "%s\\n" "$(basename "$0")$(printf " %q" "$@")" >>"$CALLS"\n{body}')

    def start(self, script: str, *arguments: str, **env: str) -> subprocess.Popen:
        return subprocess.Popen(
            ['bash', str(self.root / 'launch' / script), *arguments],
            cwd=self.cwd, env=self.env | env, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(
        self, script: str, *arguments: str, code: int = 0, **env: str
    ) -> subprocess.CompletedProcess:
        process = self.start(script, *arguments, **env)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, (out, err)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def main_saw(self) -> dict:
        self.wait_for(self.seen.exists)
        return json.loads(self.seen.read_text())

    @staticmethod
    def wait_for(condition, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, 'waited in vain'
            time.sleep(0.02)

    @staticmethod
    def commands(text: str) -> list[list[str]]:
        """The lines of a dry run as a shell reads them."""
        return [shlex.split(line) for line in text.splitlines() if not line.startswith('#')]


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


@pytest.fixture
def ready(tree):
    """A tree whose environment needs no making."""
    tree.env['SEGJAX_PYTHON'] = REAL_PYTHON
    return tree
