"""tasks.py on machines that are not ready for it: one clear sentence each."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import tasks


def interpreter(folder: Path, answer: str) -> str:
    """A stand-in for an interpreter, whose pip answers so."""
    path = folder / "python3"
    path.write_text(f"#!/bin/sh\n{answer}\n")
    path.chmod(0o755)
    return str(path)


def test_old_python_is_told_which_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 6))
    with pytest.raises(tasks.TaskError, match=r"takes Python 3\.11 or newer; this is 3\.9"):
        tasks.main(["test"])


def test_missing_pip_is_told_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(tasks.TaskError, match="apt install python3-pip"):
        tasks.check_pip(interpreter(tmp_path, "echo 'No module named pip' >&2; exit 1"))


@pytest.mark.parametrize("version", ["20.3.4", "22.2"])
def test_old_pip_is_told_how_to_become_newer(tmp_path: Path, version: str) -> None:
    with pytest.raises(tasks.TaskError, match="install --upgrade pip"):
        tasks.check_pip(interpreter(tmp_path, f"echo 'pip {version} from /x (python 3.11)'"))


@pytest.mark.parametrize("version", ["22.3", "23.0.1", "26.3"])
def test_pip_that_can_reach_another_environment_is_enough(tmp_path: Path, version: str) -> None:
    tasks.check_pip(interpreter(tmp_path, f"echo 'pip {version} from /x (python 3.11)'"))


@pytest.mark.parametrize("arguments", [[], ["tests"]])
def test_unknown_task_shows_the_list(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        tasks.main(arguments)
    assert ended.value.code == 2
    assert "tasks.py demo" in capsys.readouterr().err


def test_every_task_is_in_the_list_that_help_shows() -> None:
    assert all(f"tasks.py {name}" in (tasks.__doc__ or "") for name in tasks.TASKS)


def test_ctrl_c_waits_for_the_command_to_stop_in_order() -> None:
    """However long that takes: more than the quarter of a second of subprocess.run."""
    command = (
        "import signal, threading\n"
        "interrupted = threading.Event()\n"
        "signal.signal(signal.SIGINT, lambda *_: interrupted.set())\n"
        "print('ready', flush=True)\n"
        "interrupted.wait()\n"
        "threading.Event().wait(1)\n"
        "print('in order', flush=True)\n"
        "raise SystemExit(130)\n"
    )
    task = f"import sys, tasks; tasks.run(sys.executable, '-c', {command!r})"
    with subprocess.Popen(
        [sys.executable, "-c", task],
        cwd=tasks.ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        os.killpg(running.pid, signal.SIGINT)
        os.killpg(running.pid, signal.SIGINT)
        assert running.stdout.read() == "in order\n"
    assert running.returncode == 130


def test_failure_of_a_command_is_the_tasks_own() -> None:
    with pytest.raises(SystemExit) as ended:
        tasks.run(sys.executable, "-c", "raise SystemExit(7)")
    assert ended.value.code == 7
    with pytest.raises(SystemExit) as ended:
        tasks.run(sys.executable, "-c", "import os; os.kill(os.getpid(), 15)")
    assert ended.value.code == 128 + 15
