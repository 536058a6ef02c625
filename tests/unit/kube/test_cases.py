"""The same bad objects are refused, and the same good ones taken, on every road."""

import pytest

from appliance.core import reading
from appliance.core.documents import Document
from appliance.errors import BadDocumentError
from appliance.kube.objects import read
from tests.helpers.definitions import (
    Case,
    broken_rules,
    cases,
    defaulted,
    refusals,
    schema_of,
)

pytestmark = pytest.mark.slow

INVALID, VALID = cases("invalid"), cases("valid")
ROOT_METADATA = {"label-with-a-space", "label-key-with-a-space"}
"""Metadata are the server's own business: no definition describes them."""


def name_of(case: Case) -> str:
    return case.id


def test_there_are_enough_and_each_has_its_name() -> None:
    assert len(INVALID) >= 30
    assert len(VALID) >= 10
    ids = [case.id for case in [*INVALID, *VALID]]
    assert len(set(ids)) == len(ids)
    assert {case.caught for case in INVALID} == {"schema", "cel", "both"}


@pytest.mark.parametrize("case", INVALID, ids=name_of)
def test_apply_refuses_it_in_words_that_help(case: Case) -> None:
    with pytest.raises(BadDocumentError) as caught:
        reading.from_wire(case.resource, "x.yaml")
    assert case.says in caught.value.what


@pytest.mark.parametrize("case", INVALID, ids=name_of)
def test_the_controller_says_the_same_where_a_server_let_it_through(case: Case) -> None:
    found = read.document(case.resource)
    assert not isinstance(found, Document)
    assert (found.type, found.status, found.reason) == ("Ready", "False", "Invalid")
    assert case.says in found.message


@pytest.mark.parametrize("case", INVALID, ids=name_of)
def test_a_server_refuses_it_with_what_it_should(case: Case) -> None:
    schema = schema_of(case.kind)
    value = defaulted(schema, case.resource)
    by_schema, by_rule = refusals(schema, value), broken_rules(schema, value)
    if case.id in ROOT_METADATA:
        assert not by_schema
        assert not by_rule
        return
    assert bool(by_schema) == (case.caught in ("schema", "both")), by_schema
    assert bool(by_rule) == (case.caught in ("cel", "both")), by_rule
    if by_rule:
        assert any(case.says in said for said in by_rule)


@pytest.mark.parametrize("case", VALID, ids=name_of)
def test_a_good_one_is_taken_by_everybody(case: Case) -> None:
    schema = schema_of(case.kind)
    value = defaulted(schema, case.resource)
    assert refusals(schema, value) == []
    assert broken_rules(schema, value) == []
    document = reading.from_wire(case.resource, "x.yaml")
    assert read.document(value) == document
