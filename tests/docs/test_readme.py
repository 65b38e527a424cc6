"""The README: short, and its two commands are those that everything else uses."""

import re

import tasks
from tests.docs.pages import ROOT, all_pages, page

README_LINES_MAX = 170


def test_the_readme_is_short() -> None:
    assert page("README.md").text.count("\n") <= README_LINES_MAX


def test_the_two_commands_are_those_of_the_task_runner_and_of_ci() -> None:
    commands = list(page("README.md").shell_commands())
    assert commands[:2] == ["python3 tasks.py demo", "python3 tasks.py test"]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert next(line for line in ci if line.startswith("python3")) == commands[1]


def test_every_task_that_a_page_names_is_one() -> None:
    for document in all_pages():
        named = re.findall(r"tasks\.py ([a-z]+)", document.text)
        assert set(named) <= set(tasks.TASKS), document.name


def test_contributing_lists_every_task() -> None:
    listed = [name.split()[-1] for name, _ in page("CONTRIBUTING.md").rows("task", "what it does")]
    assert listed == list(tasks.TASKS)


def test_pages_speak_of_the_project_alone() -> None:
    """No path of somebody's machine: what stands there works wherever the reader is."""
    local = re.compile(r"(?<![\w.:/])/(?:home|root|Users|work|mnt|srv)/")
    for document in all_pages():
        assert not local.search(document.text), document.name
