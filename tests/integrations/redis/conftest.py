"""What the tests of the Redis store share: servers of their own, and the proxy in front of one."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integrations.redis.server import RedisServer


@pytest.fixture
def own_server():
    """Start servers that a test may hurt."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(RedisServer(options))


@pytest.fixture
def acl_of_the_docs():
    """The words of the user that the how-to page makes."""
    page = Path(__file__).parents[3] / "docs/how-to/redis.md"
    (rule,) = re.findall(r"^ACL SETUSER (.*?[^\\])$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return rule.replace("\\\n", " ").split()
