from datetime import UTC, datetime, timedelta

import pytest

from api.dashboard import formats

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def test_unknown_values_are_a_dash():
    unknown = [form(None) for form in (formats.percent, formats.short, formats.size, formats.milliseconds)]

    assert [*unknown, formats.duration(None)] == ["—"] * 5


@pytest.mark.parametrize(("fraction", "text"), [(0.0, "0"), (0.29, "29"), (0.999, "99"), (1.0, "100")])
def test_only_completed_work_is_100_percent(fraction, text):
    assert formats.completed(fraction) == f"{text}\u00a0%"


@pytest.mark.parametrize(
    ("number", "text"), [(205_130, "205 k"), (999_600, "1 M"), (1.39e8, "139 M"), (12, "12"), (2.5e12, "2.5 T")]
)
def test_large_numbers_are_abbreviated(number, text):
    assert formats.short(number) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(0, "0 B"), (812, "812 B"), (999.6, "1 kB"), (834_112, "834 kB"), (4.48e7, "44.8 MB")]
)
def test_sizes_are_decimal(num_bytes, text):
    assert formats.size(num_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.4 s"), (9.97, "10 s"), (45, "45 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
)
def test_durations_have_readable_units(seconds, text):
    assert formats.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "just now"),
        (2, "just now"),
        (42, "42 s ago"),
        (200, "3 min ago"),
        (8000, "2 h ago"),
        (3 * 86_400, "3 d ago"),
    ],
)
def test_recent_times_are_relative(seconds, text):
    assert formats.ago(NOW - timedelta(seconds=seconds), now=NOW) == text


@pytest.mark.parametrize(("seconds", "text"), [(-3, "now"), (3, "now"), (200, "in 3 min"), (3 * 86_400, "in 3 d")])
def test_times_to_come_are_relative(seconds, text):
    assert formats.until(NOW + timedelta(seconds=seconds), now=NOW) == text


def test_distant_times_are_dates():
    assert formats.ago(NOW - timedelta(days=200), now=NOW) == "8 May 2026"
    assert formats.until(NOW + timedelta(days=200), now=NOW) == "12 Jun 2027"


def test_times_are_in_utc():
    assert formats.iso("2026-11-24T13:00:05.125+01:00") == "2026-11-24T12:00:05Z"
    assert formats.clock("2026-11-24T13:00:05.125+01:00") == "12:00:05"


@pytest.mark.parametrize(("factor", "text"), [(1.34, "1.3×"), (54.4, "54×"), (9.96, "10×")])
def test_factors_are_rounded(factor, text):
    assert formats.times(factor) == text
