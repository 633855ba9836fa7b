"""docs/reference/cli.md tells what the program does."""

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from workerctx.cli.explain import Why

page = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[3] / "docs" / "cli.py")))
TEXT = page.PAGE.read_text(encoding="utf-8")
COMMANDS = dict(page.commands())


def test_the_commands_are_those_of_the_program():
    """The page is the one that `python docs/cli.py --write` would make."""
    assert page.render(TEXT) == TEXT, "run python docs/cli.py --write"


def test_every_reason_is_explained():
    """Each code that `jobs explain` can give is on the page, and no other."""
    section = TEXT.partition("## Why a job is not running")[2].partition("## Commands")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert sorted(code for row in rows for code in re.findall(r"`(\w+)`", row)) == sorted(Why)


@pytest.mark.parametrize("call", [call for call in COMMANDS if call not in page.SERVING + page.TWO_STORES])
def test_every_command_takes_a_store(call):
    """Each command that looks after a store has the options that the page tells of once, with their variables."""
    taken = {argument.name: page.variables(argument) for argument in page.arguments(COMMANDS[call])}
    assert {name: taken.get(name) for name in page.SHARED} == {
        "--storage": ("WORKERCTX_URL",),
        "--app": ("WORKERCTX_APP",),
        "--json": ("WORKERCTX_JSON",),
    }


@pytest.mark.parametrize("call", COMMANDS)
def test_every_option_has_help(call):
    """No option or argument is left without a sentence."""
    for argument in page.arguments(COMMANDS[call]):
        assert (argument.parameter.help or "").partition(" [env var: ")[0].endswith("."), argument.name
