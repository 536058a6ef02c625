"""A document that is wrong is refused with file, line, field and what is allowed."""

import re
from datetime import time

import pytest

from appliance.core import reading
from appliance.core.definitions import BundleDefinition
from appliance.core.documents import ModelDeployment, Site
from appliance.errors import BadDocumentError

GOOD = """\
apiVersion: edge-appliance.dev/v1alpha1
kind: ModelDeployment
metadata: {name: triage-notes}
spec:
  model: smollm2-135m-instruct
  engine: auto
  quantization: auto
  replicas: 1
  resources: {gpu: 1}
  context: 8192
  objectives:
    timeToFirstToken: {p95: 500ms}
    interTokenLatency: {p95: 40ms}
    concurrency: 4
  priority: critical
  scaling: {min: 0, max: 2, idleAfter: 15m, prewarm: predictive}
  release: {canary: {weight: 10, for: 30m}, check: golden}
"""


def parse(text: str) -> ModelDeployment:
    return reading.parse_one(text, "x.yaml", ModelDeployment)


def test_the_example_of_the_design_is_valid_and_survives_a_round_trip() -> None:
    document = parse(GOOD)
    assert document.spec.objectives is not None
    assert document.spec.objectives.time_to_first_token is not None
    assert document.spec.objectives.time_to_first_token.p95 is not None
    assert document.spec.objectives.time_to_first_token.p95.seconds == 0.5
    assert reading.from_wire(document.to_wire(), "there") == document


def test_a_plain_spec_is_valid() -> None:
    document = parse(
        "{apiVersion: edge-appliance.dev/v1alpha1, kind: ModelDeployment, metadata: {name: a},"
        " spec: {model: m, engine: vllm, replicas: 3, resources: {gpu: 2}}}"
    )
    assert document.not_yet_honoured() == ["resources"]


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "allowed"),
    [
        ("context: 8192", "context: -1", 10, "spec.context", "a whole number from 64 to 16777216"),
        ("context: 8192", "context: many", 10, "spec.context", "a whole number from 64"),
        ("context: 8192", "contxt: 8192", 10, "spec.contxt", "unknown field; allowed here: model"),
        ("p95: 500ms", "p95: 500 msec", 12, "timeToFirstToken.p95", "units ms, s, m, h;"),
        ("p95: 500ms", "p95: 500", 12, "timeToFirstToken.p95", "text"),
        ("engine: auto", "engine: ollama", 6, "spec.engine", "auto, llama-cpp, vllm"),
        ("replicas: 1", "replicas: 1.5", 8, "spec.replicas", "a whole number from 0 to 64"),
        ("replicas: 1", "replicas: true", 8, "spec.replicas", "a whole number from 0 to 64"),
        ("{gpu: 1}", "{gpuMemory: 6 apples}", 9, "resources.gpuMemory", "units K, M, G, T"),
        ("{gpu: 1}", "{mig: big}", 9, "resources.mig", "such as 1g.10gb"),
        (
            "min: 0, max: 2",
            "min: 3, max: 2",
            16,
            "spec.scaling",
            "min is above max; allowed: min from 0 to max",
        ),
        ("name: triage-notes", "name: Triage", 3, "metadata.name", "a-z, 0-9 and -"),
        ("model: smollm2-135m-instruct", "model: ../etc", 5, "spec.model", "catalogue"),
        ("  model: smollm2-135m-instruct\n", "", 4, "spec.model", "is required"),
        ("weight: 10, ", "", 17, "canary.weight", "is required: a whole number from 1 to 100"),
        ("v1alpha1", "v9", 1, "apiVersion", "edge-appliance.dev/v1alpha1"),
    ],
)
def test_an_error_names_file_line_field_and_what_is_allowed(
    old: str, new: str, line: int, field: str, allowed: str
) -> None:
    assert old in GOOD
    with pytest.raises(BadDocumentError) as caught:
        parse(GOOD.replace(old, new, 1))
    text = str(caught.value)
    assert text.startswith(f"x.yaml:{line}: ")
    assert field in text
    assert allowed in text


def test_all_findings_come_at_once_in_the_order_of_lines() -> None:
    bad = GOOD.replace("context: 8192", "context: -1").replace("engine: auto", "engine: x")
    with pytest.raises(BadDocumentError) as caught:
        parse(bad)
    assert [line.split(":")[1] for line in str(caught.value).splitlines()] == ["6", "10"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [1", "x.yaml:1: not YAML"),
        ("a: 1\na: 2", "x.yaml:2: 'a' stands twice"),
        ("kind: Cake", "x.yaml:1: kind: 'Cake' is not known; allowed: ModelDeployment"),
        ("- 1", "x.yaml:1: a document is a mapping"),
        ("? [a]\n: 1", "x.yaml:1: a key must be a plain word"),
        ("a: !!python/object:os.system {}", "x.yaml:1: the tag"),
        ("a: 2026-99-99", "x.yaml:1: "),
    ],
)
def test_what_is_not_a_document_is_refused_with_its_line(text: str, says: str) -> None:
    with pytest.raises(BadDocumentError, match=r"x\.yaml") as caught:
        reading.parse_yaml(text, "x.yaml")
    assert str(caught.value).startswith(says)


def test_nested_aliases_cannot_fill_the_memory() -> None:
    bomb = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{n}: &{n} [{','.join(['*' + p] * 9)}]\n"
        for p, n in zip("abcdefg", "bcdefgh", strict=True)
    )
    with pytest.raises(BadDocumentError, match="more than 50000 values"):
        reading.parse_yaml(bomb, "x.yaml")


def test_a_stream_may_hold_several_documents_and_empty_ones() -> None:
    assert len(reading.parse_yaml(f"---\n{GOOD}---\n---\n{GOOD}", "x.yaml")) == 2


def test_a_site_and_a_bundle_definition_are_read() -> None:
    site = reading.parse_one(
        "{apiVersion: edge-appliance.dev/v1alpha1, kind: Site, metadata: {name: s}, spec:"
        " {timeZone: Europe/Zurich, electricity: {currency: CHF, perKilowattHour: 0.25},"
        " gramsCo2PerKilowattHour: 35, disk: {store: 100Gi, floor: 2Gi},"
        " retention: {audit: 365d}}}",
        "x",
        Site,
    )
    assert site.spec.disk is not None
    assert site.spec.disk.store is not None
    assert site.spec.disk.store.size == 100 << 30
    with pytest.raises(BadDocumentError, match="exactly one of pypi, file, huggingface, oci"):
        reading.parse_one(
            "{apiVersion: edge-appliance.dev/v1alpha1, kind: BundleDefinition, metadata: {name: b},"
            " spec: {version: '1', models: [{name: m, version: '1', publisher: p, licence: MIT,"
            " variants: [{name: Q4_0, source: {}}]}]}}",
            "x",
            BundleDefinition,
        )


def test_every_kind_has_a_json_schema_whose_fields_are_described() -> None:
    for kind in reading.KINDS:
        schema = reading.json_schema(kind)
        for name, part in schema["$defs"].items():
            for field, found in part.get("properties", {}).items():
                assert found.get("description") or "$ref" in found, f"{kind}: {name}.{field}"


SITE = """\
apiVersion: edge-appliance.dev/v1alpha1
kind: Site
metadata: {name: plant-7}
spec:
  timeZone: Europe/Zurich
  windows:
    transfer:
      - {days: [mon, fri], from: "22:00", to: "05:00"}
      - {from: "12:00", to: "13:00"}
  network: {bytesPerSecond: 2M}
"""


def test_a_site_says_when_and_how_fast_bundles_may_come() -> None:
    site = reading.parse_one(SITE, "s.yaml", Site)
    assert site.spec.windows is not None
    nights, noon = site.spec.windows.transfer
    assert (nights.days, nights.from_.time, nights.to.time) == (("mon", "fri"), time(22), time(5))
    assert len(noon.days) == 7
    assert site.spec.network is not None
    assert site.spec.network.bytes_per_second is not None
    assert site.spec.network.bytes_per_second.size == 2_000_000
    assert reading.from_wire(site.to_wire(), "there") == site


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"22:00"', "22:00", "windows.transfer[0].from: 1320 is not a time such as '22:00'"),
        ('"22:00"', '"24:00"', "'24:00' is not a time"),
        ('"22:00"', '"22:00:00"', "is not a time"),
        ("[mon, fri]", "[monday]", "allowed: mon, tue"),
        ("[mon, fri]", "[]", "windows.transfer[0].days"),
        ("2M", "fast", "is not a size such as"),
    ],
)
def test_hours_that_are_none_are_refused_by_line(old: str, new: str, says: str) -> None:
    with pytest.raises(BadDocumentError, match=re.escape(says)):
        reading.parse_one(SITE.replace(old, new), "s.yaml", Site)
