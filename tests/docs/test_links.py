"""Every link of every document leads somewhere, and every document is led to."""

from pathlib import PurePosixPath

import pytest

from tests.docs.pages import ROOT, Page, all_pages, page

PAGES = all_pages()


@pytest.mark.parametrize("document", PAGES, ids=lambda document: document.name)
def test_relative_links_resolve(document: Page) -> None:
    for link in document.links:
        if "://" in link:
            assert link.startswith("https://"), link
            continue
        target, _, anchor = link.partition("#")
        path = (document.path.parent / target).resolve() if target else document.path
        assert path.is_file(), f"{document.name} leads to {link}, which is not there"
        assert path.is_relative_to(ROOT), link
        if anchor:
            anchors = page(path.relative_to(ROOT).as_posix()).anchors
            assert anchor in anchors, f"{document.name}: {link}"


@pytest.mark.parametrize("document", PAGES, ids=lambda document: document.name)
def test_a_page_has_one_title_and_says_each_heading_once(document: Page) -> None:
    assert document.text.startswith("# ")
    assert document.prose.count("\n# ") == 0
    assert len(set(document.heading_anchors)) == len(document.headings)


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached = {"README.md"}
    waiting = ["README.md"]
    while waiting:
        document = page(waiting.pop())
        for link in document.links:
            target = link.partition("#")[0]
            if "://" in link or not target.endswith(".md"):
                continue
            name = (document.path.parent / target).resolve().relative_to(ROOT).as_posix()
            if name not in reached:
                reached.add(name)
                waiting.append(name)
    assert reached == {document.name for document in PAGES}


@pytest.mark.parametrize("document", PAGES, ids=lambda document: document.name)
def test_files_of_the_repository_that_are_named_are_there(document: Page) -> None:
    for code in document.code:
        path = PurePosixPath(code)
        if code.startswith(("src/", "tests/", "requirements/", "docs/")) and " " not in code:
            name = code.partition("::")[0]
            assert (ROOT / name).exists(), f"{document.name} names {code}"
        elif path.suffix in {".py", ".sql"} and "*" not in code and "NNNN" not in code:
            found = list((ROOT / "src").rglob(path.name)) + list(ROOT.glob(code))
            found += list((ROOT / "tests").rglob(path.name))
            assert any(each.as_posix().endswith(code) for each in found), (
                f"{document.name} names {code}"
            )
