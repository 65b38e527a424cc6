"""The catalogue of problems: complete, explained, and what the service really answers with."""

import re
from html.parser import HTMLParser

import pytest

from counterfoil.server.api import errors as api_errors
from counterfoil.server.api import problems
from counterfoil.server.core import errors
from tests.contract.conftest import Door
from tests.contract.problems import assert_problem

pytestmark = pytest.mark.promise("P13")


def every_error() -> list[type[errors.CounterfoilError]]:
    """All errors of the core that are raised as themselves: those without subclasses."""
    found = []
    waiting = [errors.CounterfoilError]
    while waiting:
        kind = waiting.pop()
        subclasses = [each for each in kind.__subclasses__() if each.__module__ == errors.__name__]
        waiting += subclasses
        if not subclasses:
            found.append(kind)
    return found


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_has_its_problem(kind: type[errors.CounterfoilError]) -> None:
    # Faults of ours, and what is caught below the door: an append that is judged anew, an effect
    # that every verb turns into an error of its own.
    within = {errors.InvariantBroken, errors.RulesChanged, errors.EffectRefused}
    assert (kind in api_errors.PROBLEM_OF) == (kind not in within)


def test_no_two_errors_share_a_problem() -> None:
    used = list(api_errors.PROBLEM_OF.values())

    assert len(used) == len({problem.name for problem in used})


@pytest.mark.parametrize("problem", problems.CATALOGUE.values(), ids=problems.CATALOGUE.keys())
def test_every_type_resolves_to_its_page(door: Door, problem: problems.ProblemType) -> None:
    answer = door.client.get(problem.uri)

    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert problem.name in answer.text
    assert str(problem.status) in answer.text
    assert re.search(r"<h2>What to do</h2>\n<p>\S", answer.text)


@pytest.mark.parametrize("problem", problems.CATALOGUE.values(), ids=problems.CATALOGUE.keys())
def test_a_type_is_told_to_programs_as_json(door: Door, problem: problems.ProblemType) -> None:
    answer = door.client.get(problem.uri, headers={"Accept": "application/json"})

    assert answer.json() == {
        "type": problem.uri,
        "status": problem.status,
        "title": problem.title,
        "meaning": problem.meaning,
        "remedy": problem.remedy,
    }


def test_the_list_leads_to_every_page(door: Door) -> None:
    class Links(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[str | None] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag == "a":
                self.found.append(dict(attrs)["href"])

    links = Links()
    links.feed(door.client.get("/problems").text)

    assert links.found == [problem.uri for problem in problems.CATALOGUE.values()]


def test_the_list_is_told_to_programs_as_json(door: Door) -> None:
    listed = door.client.get("/problems", headers={"Accept": "application/json"}).json()

    assert [entry["type"] for entry in listed] == [
        problem.uri for problem in problems.CATALOGUE.values()
    ]


def test_a_problem_that_there_is_not_has_no_page(door: Door) -> None:
    assert_problem(door.client.get("/problems/%3Cscript%3E"), 404, "not-found")


def test_a_page_runs_nothing_and_loads_nothing(door: Door) -> None:
    answer = door.client.get("/problems/busy")

    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "<script" not in answer.text
    assert "src=" not in answer.text


def test_titles_and_names_are_each_used_once() -> None:
    catalogue = problems.CATALOGUE.values()

    assert len({problem.title for problem in catalogue}) == len(catalogue)
    for problem in catalogue:
        assert re.fullmatch("[a-z]+(-[a-z]+)*", problem.name)
        assert problem.meaning.endswith(".")
        assert problem.remedy.endswith(".")
        assert (problem.meaning + problem.remedy).count("`") % 2 == 0
