"""Where a Redis store looks for its server, what it is let in with, and that nobody learns it."""

from __future__ import annotations

import logging
import re
import ssl
from urllib.parse import quote

import pytest
import trustme

from workerctx.errors import InvalidRequest, StoreDenied, StoreUnavailable
from workerctx.queue import EnqueueRequest, JobState, connect
from workerctx.queue.connect import StoreURL
from workerctx_redis._endpoint import Endpoint
from workerctx_redis._source import SCRIPTS

SECRET = "hush:/@%?"


def parse(url):
    return Endpoint.parse(StoreURL.parse(url))


async def add_and_count(url):
    async with connect(url) as storage:
        await storage.jobs.enqueue(EnqueueRequest("work"))
        return (await storage.jobs.counts())[JobState.QUEUED]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", {"hosts": (("localhost", 6379),), "db": 0}),
        ("redis://box:7000/3", {"hosts": (("box", 7000),), "db": 3}),
        ("redis://[::1]:7000", {"hosts": (("::1", 7000),)}),
        ("redis://[::1]", {"hosts": (("::1", 6379),)}),
        (f"redis://me:{quote(SECRET, safe='')}@box", {"username": "me", "password": SECRET}),
        (f"redis://:{quote(SECRET, safe='')}@box", {"username": None, "password": SECRET}),
        ("redis+unix:///run/redis.sock?db=2&timeout=3", {"path": "/run/redis.sock", "db": 2, "timeout": 3.0}),
        ("redis+cluster://a:1,b:2,c", {"hosts": (("a", 1), ("b", 2), ("c", 6379)), "tls": None}),
        ("redis+sentinel://a,b:2/main?db=4", {"hosts": (("a", 26379), ("b", 2)), "service": "main", "db": 4}),
        ("redis+sentinel://a/main?sentinel_password=x", {"sentinel_password": "x", "password": None}),
        ("redis://box?prefix=my-app", {"prefix": "my-app"}),
    ],
)
def test_urls(url, expected):
    """Each kind of URL names its server, its database and what to log in with."""
    endpoint = parse(url)
    assert {name: getattr(endpoint, name) for name in expected} == expected


@pytest.mark.parametrize(
    "url",
    [
        "redis://box:70000",
        "redis://box:x",
        "redis://box/jobs",
        "redis://:pa/ss@box",
        "redis://:pa#ss@box",
        "redis://box?timeout=0",
        "redis://box?timeout=soon",
        "redis://box?prefix=",
        "redis://box?prefix={a}",
        "redis://box?nonsense=1",
        "redis+unix://",
        "redis+unix://box/redis.sock",
        "redis+cluster://a,b/1",
        "redis+cluster://a?tls=maybe",
        "redis+sentinel://a",
        "rediss://box?tls_ca=/nowhere.pem",
    ],
)
def test_what_cannot_be_meant(url):
    """Q13: a URL that names nothing, or something twice, is refused before anybody is called."""
    with pytest.raises(InvalidRequest):
        connect(url)


def test_rediss_checks_certificates_and_names():
    """TLS is never half on: who does not prove who he is gets nothing."""
    context = parse("rediss://box").tls
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert not parse("rediss://box?tls_hostname=no").tls.check_hostname
    assert parse("redis+cluster://a,b?tls=yes").tls is not None


async def test_secrets_stay_secret(own_server, caplog):
    """A password is in no URL that is shown, no repr, no error and no log, even if it is the wrong one."""
    caplog.set_level(logging.DEBUG)
    server = own_server(requirepass="right")
    word = quote(SECRET, safe="")
    storage = connect(f"redis://default:{word}@127.0.0.1:{server.port}")
    with pytest.raises(StoreDenied) as caught:
        async with storage:
            pass
    shown = [
        storage.url,
        repr(storage),
        repr(storage.jobs),
        str(caught.value),
        repr(caught.value.__cause__),
        caplog.text,
    ]
    for text in shown:
        assert SECRET not in text
        assert word not in text
    assert "***" in storage.url
    with pytest.raises(StoreDenied, match="password"):
        await add_and_count(f"redis://127.0.0.1:{server.port}")
    assert await add_and_count(f"redis://:right@127.0.0.1:{server.port}") == 1


async def test_a_user_with_the_least_rights(own_server, acl_of_the_docs):
    """The rights that the documentation asks for are enough for everything, and keys of others are out of reach."""
    server = own_server()
    server.command("acl", "setuser", *acl_of_the_docs)
    url = f"redis://jobs:secret@127.0.0.1:{server.port}"
    assert await add_and_count(url) == 1
    async with connect(url) as storage, storage.jobs.wakeups() as wakeups:
        while await wakeups.wait(0):
            pass
        await storage.jobs.enqueue_bulk([EnqueueRequest("work") for _ in range(2500)])
        assert await wakeups.wait(10)
    with pytest.raises(StoreDenied, match="does not allow"):
        await add_and_count(f"{url}?prefix=elsewhere")
    server.command("acl", "setuser", "jobs", "resetchannels")
    with pytest.raises(StoreDenied, match="channel"):
        await add_and_count(url)
    async with connect(f"redis://127.0.0.1:{server.port}") as storage:
        assert sum((await storage.jobs.counts()).values()) == 2501


async def test_a_right_that_is_missing_is_told_before_anything_is_written(own_server, acl_of_the_docs):
    """Q13: a user who lacks one of the documented commands cannot open the store, and leaves nothing behind."""
    server = own_server()
    url = f"redis://jobs:secret@127.0.0.1:{server.port}"
    rights = [word.removeprefix("+") for word in acl_of_the_docs if word.startswith("+")]
    needed_by_each_call = {"hget", "llen"}
    for right in rights[rights.index("del") :]:
        server.command("acl", "setuser", *acl_of_the_docs)
        server.command("acl", "setuser", "jobs", f"-{right}")
        with pytest.raises(StoreDenied, match="does not allow") as caught:
            async with connect(url):
                pass
        assert f"({right.upper()}: " in str(caught.value) or right in needed_by_each_call
        server.command("acl", "setuser", "jobs", "+del")
        assert server.command("dbsize") == "0", right


async def test_a_unix_socket(own_server):
    """A server is reached by its socket, in any of its databases."""
    server = own_server()
    assert await add_and_count(f"redis+unix://{server.socket}") == 1
    assert await add_and_count(f"redis+unix://{server.socket}?db=3") == 1
    server.kill()
    with pytest.raises(StoreUnavailable, match=r"redis\.sock"):
        await add_and_count(f"redis+unix://{server.socket}")


async def test_tls(redis_server, proxy_of, tmp_path):
    """Everything goes through TLS, wake-ups included; a server that nobody vouches for is not talked to."""
    authority, stranger = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    stranger.cert_pem.write_to_path(str(tmp_path / "stranger.pem"))
    proxy = proxy_of(("127.0.0.1", redis_server.port), tls=context)
    url = f"rediss://{proxy.host}:{proxy.port}?prefix=tls{id(proxy)}&tls_ca={tmp_path}"
    async with connect(f"{url}/ca.pem") as storage, storage.jobs.wakeups() as wakeups:
        await storage.jobs.enqueue(EnqueueRequest("work"))
        assert await wakeups.wait(10)
        assert await storage.jobs.claim("worker") is not None
    with pytest.raises(StoreUnavailable, match="certificate"):
        await add_and_count(f"{url}/stranger.pem")


def test_the_documented_rights_name_every_command(acl_of_the_docs):
    """What the script may call is what the user of the documentation may do, to the last command."""
    called = set(re.findall(r"'([A-Z]{2,})'", "".join(SCRIPTS.values()))) - {"WITHSCORES", "LIMIT"}
    allowed = {word.removeprefix("+").upper() for word in acl_of_the_docs if word.startswith("+")}
    assert called <= allowed
    assert allowed - called == {"EVALSHA", "EVAL", "SCRIPT|LOAD", "PING", "SELECT", "SUBSCRIBE", "UNSUBSCRIBE"}
