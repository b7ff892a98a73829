"""For which hosts, and for pages of which sites, a service on this machine answers."""

from __future__ import annotations

import pytest

from freerun.server.origins import check_host, check_site
from freerun.server.problem import Problem


def scope(method="GET", **headers):
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"method": method, "headers": pairs}


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8080",
        "127.0.0.1",
        "127.0.0.1:8080",
        "[::1]",
        "[::1]:8080",
        "192.168.0.7:80",
        "model.localhost:1",
        "example.org",
        "Example.org:443",
        "",
    ],
)
def test_this_machine_addresses_and_names_that_were_given_are_answered(host):
    check_host(scope(host=host), ["example.org"])


@pytest.mark.parametrize(
    "host", ["evil.example", "example.org.evil.example", "localhost.evil.example", "127.0.0.1.evil:80"]
)
def test_another_name_may_have_been_pointed_at_this_machine(host):
    with pytest.raises(Problem, match="does not answer for the host") as caught:
        check_host(scope(host=host), ["example.org"])
    assert caught.value.status == 421
    assert "--host-name" in caught.value.detail


def test_a_request_without_a_host_is_that_of_a_program():
    check_host(scope(), [])


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_of_another_site_is_rejected_unless_it_is_named(site):
    page = scope("POST", sec_fetch_site=site, origin="https://evil.example")
    with pytest.raises(Problem, match="Pages of other sites") as caught:
        check_site(page, ["https://example.org"])
    assert caught.value.status == 403
    check_site(page, ["https://evil.example"])
    check_site(page, ["*"])


@pytest.mark.parametrize("site", ["same-origin", "none", ""])
def test_our_own_page_and_programs_are_answered(site):
    check_site(scope("POST", sec_fetch_site=site, origin="http://localhost"), [])


def test_what_only_reads_is_left_to_the_browser():
    """It shows no other page what it has read."""
    check_site(scope("GET", sec_fetch_site="cross-site"), [])
