"""Counts of several processes, and their sums as Prometheus reads them."""

from __future__ import annotations

import os

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from freerun.server.counts import CountTable


def parsed(table):
    """The samples by name and labels, as a client of Prometheus reads them."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(table)
    text = generate_latest(registry).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def table():
    return CountTable(3, ["en", "ko"])


def test_counters_are_sums_over_all_processes(table):
    table.row(0).add("texts", "en", by=3)
    table.row(1).add("texts", "en")
    table.row(2).add("texts", "ko", by=5)
    samples = parsed(table)
    assert (samples["freerun_texts_total", "en"], samples["freerun_texts_total", "ko"]) == (4, 5)


def test_counts_of_a_forked_process_are_seen(table):
    child = os.fork()
    if not child:
        table.row(1).add("tokens", "ko", by=7)
        os._exit(0)
    os.waitpid(child, 0)
    assert parsed(table)["freerun_tokens_total", "ko"] == 7


def test_a_row_goes_on_where_its_former_process_ended(table):
    table.row(1).add("texts", "en")
    table.row(1).add("texts", "en")
    assert parsed(table)["freerun_texts_total", "en"] == 2


def test_buckets_of_a_histogram_are_cumulative(table):
    for row, value in ((0, 1), (1, 2), (1, 3), (2, 512), (2, 9999)):
        table.row(row).observe("batch_texts", value, "en")
    samples = parsed(table)
    named = ("freerun_batch_texts_bucket", "en")
    buckets = {key[1]: value for key, value in samples.items() if (key[0], key[-1]) == named}
    assert buckets["1.0"] == 1
    assert buckets["2.0"] == 2
    assert buckets["4.0"] == buckets["256.0"] == 3
    assert buckets["512.0"] == 4
    assert buckets["+Inf"] == samples["freerun_batch_texts_count", "en"] == 5
    assert samples["freerun_batch_texts_sum", "en"] == 1 + 2 + 3 + 512 + 9999
    assert list(buckets.values()) == sorted(buckets.values())


def test_gauges_are_summed_and_forgotten_with_their_process(table):
    table.row(0).set("connections", 4)
    table.row(1).set("connections", 2)
    assert parsed(table)["freerun_connections",] == 6
    table.row(0).add("texts", "en")
    table.clear_gauges(0)
    assert parsed(table)["freerun_connections",] == 2
    assert parsed(table)["freerun_texts_total", "en"] == 1


def test_requests_are_counted_by_address_and_status(table):
    table.row(0).request("predict", 200, 0.01)
    table.row(1).request("predict", 200, 0.02)
    table.row(1).request("predict", 418, 0.02)
    samples = parsed(table)
    assert samples["freerun_requests_total", "predict", "200"] == 2
    assert samples["freerun_requests_total", "predict", "other"] == 1
    assert samples["freerun_request_seconds_count", "predict"] == 3
    assert ("freerun_requests_total", "score", "200") not in samples


def test_no_number_belongs_to_two_metrics(table):
    counts = table.row(0)
    for metric in table._metrics:
        for values in metric.values:
            if metric.kind == "histogram":
                counts.observe(metric.name, 1e9, *values)
            else:
                counts.add(metric.name, *values)
    for metric in table._metrics:
        for values in metric.values:
            start = counts._columns[(metric.name, *values)]
            expected = [1e9, *[0] * len(metric.bounds), 1] if metric.kind == "histogram" else [1]
            assert list(counts._numbers[start : start + metric.width]) == expected
