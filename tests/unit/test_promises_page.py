"""docs/promises.md says what is promised, and each promise has a test that shows it."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
page = SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "promises.py")))
TEXT = page.PAGE.read_text(encoding="utf-8")
LINKS = page.collect(page.folders())
NAMED = page.promises(TEXT)


@pytest.mark.parametrize("number", NAMED)
def test_every_promise_has_a_test(number):
    """A promise on the page has at least one test whose docstring opens with its number."""
    assert LINKS.get(number), f"no test's docstring opens with '{number}: '"


def test_every_tested_promise_is_on_the_page():
    """A number that opens a test's docstring stands on the page."""
    assert sorted(set(LINKS) - set(NAMED)) == []


def test_the_lists_of_tests_are_up_to_date():
    """The page's links are those that `python docs/promises.py --write` would write."""
    assert page.render(TEXT, LINKS) == TEXT, "run python docs/promises.py --write"


def test_the_lifecycle_and_web_promises_are_complete():
    """The page names L0 to L38 and H1 to H4, each once."""
    assert len(NAMED) == len(set(NAMED))
    assert {*(f"L{n}" for n in range(39)), *(f"H{n}" for n in range(1, 5))} <= set(NAMED)


def test_links_come_from_docstrings(tmp_path):
    """A test counts for each number that opens its docstring; a mention later does not."""
    folder = tmp_path / "tests" / "unit"
    folder.mkdir(parents=True)
    (folder / "test_it.py").write_text(
        '"""Q17: a suite."""\n'
        'async def test_a():\n    """L1, L22: one."""\n'
        'def test_b():\n    """Mentions L3: not its test."""\n'
        'def helper():\n    """L4: not a test."""\n'
        'class TestMachine:\n    """L5: a machine."""\n    def test_c(self):\n        """L1: again."""\n'
    )
    links = page.collect({"tests": tmp_path / "tests"})
    assert links == {
        "L1": ["[test_a](../tests/unit/test_it.py)", "[test_c](../tests/unit/test_it.py)"],
        "L22": ["[test_a](../tests/unit/test_it.py)"],
        "L5": ["[TestMachine](../tests/unit/test_it.py)"],
        "Q17": ["[test_it](../tests/unit/test_it.py)"],
    }


def test_rendering_replaces_only_the_lists():
    """Each promise's list is replaced as a whole; a promise without tests says so."""
    text = "### L1\n\nText of L1: stays.\n\nTests of L1: [old](x).\n\nTests of L2: [gone](y).\n"
    assert page.render(text, {"L1": ["[a](z)", "[b](z)"]}) == (
        "### L1\n\nText of L1: stays.\n\nTests of L1: [a](z), [b](z).\n\nTests of L2: none yet.\n"
    )
