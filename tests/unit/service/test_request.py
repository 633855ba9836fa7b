"""The request and its data."""

from __future__ import annotations

import pytest

from workerctx.errors import MissingData
from workerctx.service import DataMap, Request


class Database:
    pass


def test_values_are_found_by_their_type():
    """A value goes in under its type and comes out typed; one type, one value."""
    database = Database()
    data = DataMap({Database: database})
    assert data.insert(str, "a") is None
    assert data.insert(str, "b") == "a"
    assert data.get(str) == "b"
    assert data.require(Database) is database
    assert Database in data
    assert int not in data
    assert list(data) == [Database, str]
    assert len(data) == 2
    assert repr(data) == "DataMap(Database, str)"


def test_a_missing_value_names_itself_and_what_is_there():
    """What nobody inserted is None, a default, or a clear error."""
    data = DataMap({str: "a"})
    assert data.get(Database) is None
    assert data.get(int, 3) == 3
    with pytest.raises(MissingData, match=r"carries no Database, only str: give the worker one"):
        data.require(Database)
    with pytest.raises(MissingData, match="only nothing"):
        DataMap().require(str)


def test_a_removed_value_is_gone():
    """Removing hands the value back, once."""
    data = DataMap({str: "a"})
    assert data.remove(str) == "a"
    assert data.remove(str) is None
    assert str not in data


def test_extended_data_are_a_copy():
    """What is inserted for one request never reaches another one."""
    shared = DataMap({str: "shared"})
    mine, yours = shared.extended({int: 1}), shared.extended({int: 2, str: "yours"})
    mine.insert(float, 0.5)
    assert (mine.require(int), yours.require(int)) == (1, 2)
    assert (mine.require(str), yours.require(str)) == ("shared", "yours")
    assert float not in yours
    assert float not in shared


def test_two_requests_share_nothing():
    """The defaults of a request are its own."""
    first, second = Request("a"), Request("a")
    first.kwargs["x"] = 1
    first.data.insert(int, 1)
    assert not second.kwargs
    assert int not in second.data
