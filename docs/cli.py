"""Write the commands and their options into reference/cli.md from the program itself.

Usage: python docs/cli.py [--write]; without --write it only tells whether the page is up to date.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workerctx.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cyclopts import App

PAGE = Path(__file__).parent / "reference" / "cli.md"
SHARED = ("--storage", "--app", "--json")
"""Options of every command that looks after a store; the page tells of them once."""
SERVING = ("workerctx worker", "workerctx gateway")
"""The commands that are processes of their own."""
TWO_STORES = ("workerctx move",)
"""The commands that name their stores otherwise."""

_COMMANDS = re.compile(r"(?<=<!-- commands -->\n).*", re.DOTALL)
_OWN_VARIABLE = re.compile(r" \[env var: (\w+)\]")


def commands(group: App = app, words: tuple[str, ...] = ("workerctx",)) -> Iterator[tuple[str, App]]:
    """Yield every command with the words that call it, in the order of the help."""
    for name in group:
        if name.startswith("-"):
            continue
        command = group[name]
        if command.default_command is None:
            yield from commands(command, (*words, name))
        else:
            yield " ".join((*words, name)), command


def arguments(command: App) -> list[Any]:
    """Return what a command takes, in the order of its signature."""
    return [each for each in command.assemble_argument_collection() if each.show]


def variables(argument: Any) -> tuple[str, ...]:
    """Return the environment variables that stand for an option."""
    return argument.parameter.env_var or tuple(_OWN_VARIABLE.findall(argument.parameter.help or ""))


def render(page: str) -> str:
    """Return the page with the part about each command replaced."""
    return _COMMANDS.sub(lambda _: "".join(map(_section, *zip(*commands(), strict=True))), page, count=1)


def _section(call: str, command: App) -> str:
    taken = arguments(command)
    operands = [each for each in taken if not each.name.startswith("-")]
    usage = " ".join([call, *map(_operand, operands), "[OPTIONS]"])
    text = inspect.cleandoc(command.help)
    rows = [_row(each) for each in taken if call in SERVING + TWO_STORES or each.name not in SHARED]
    table = "".join(["\n| | | Variable |\n|---|---|---|\n", *rows]) if rows else ""
    return f"\n### `{call}`\n\n```sh\n{usage}\n```\n\n{text}\n{table}"


def _operand(argument: Any) -> str:
    several = "..." if argument.field_info.kind is inspect.Parameter.VAR_POSITIONAL else ""
    return f"{argument.name}{several}" if argument.required else f"[{argument.name}{several}]"


def _row(argument: Any) -> str:
    names = ", ".join(f"`{name}`" for name in argument.names)
    help_ = _OWN_VARIABLE.sub("", argument.parameter.help or "")
    choices = argument.get_choices()
    if choices:
        help_ += f" One of {', '.join(f'`{choice}`' for choice in choices)}."
    default = argument.field_info.default
    if argument.parameter.show_default is not False and isinstance(default, int | str) and default is not False:
        help_ += f" `{default}` if not given."
    return f"| {names} | {help_} | {', '.join(f'`{name}`' for name in variables(argument))} |\n"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    if "--write" in sys.argv[1:]:
        PAGE.write_text(render(text), encoding="utf-8")
    elif render(text) != text:
        sys.exit("docs/reference/cli.md is out of date: run python docs/cli.py --write")
