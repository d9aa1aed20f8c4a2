"""Times as people write them to nanoseconds, and back: ``10m``, ``2h ago``, ``yesterday 14:00``, RFC 3339 (pure)."""

from __future__ import annotations

import datetime as dt
import re

from ...configuration.units import parse_seconds

__all__ = ["NOT_A_TIME", "Clock", "parse_time"]

NOT_A_TIME = "not a time: write 10m, '2 hours ago', 'yesterday 14:00', '2026-01-31 14:00', now, or RFC 3339"

_FIRST, _LAST = -62135510400, 253402214400  # 0001-01-02 and 9999-12-31, in seconds
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_UNITS = {
    "s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hr": 3600, "hour": 3600,
    "d": 86400, "day": 86400, "w": 604800, "week": 604800,
}  # fmt: skip
_words = re.compile(r"(?:(\d{1,9})|an?) ([a-z]+?)s?(?: ago)?").fullmatch
_clock = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?").fullmatch
_date = re.compile(r"(\d{4}-\d\d-\d\d)(?:[ t](\d{1,2}:\d\d(?::\d\d)?))?").fullmatch


def parse_time(text: str, now: dt.datetime, zone: dt.tzinfo | None = None) -> int:
    """Return the moment in nanoseconds since the epoch. Raises `ValueError`.

    ``now`` has a zone. What is written without one is in ``zone``, None being the machine's own. A time of day alone
    is the last such time, a day of the week the last such day; a day alone begins at midnight.
    """
    text = " ".join(text.lower().split())
    if text == "now":
        return _nanoseconds(now)
    if text.endswith("z") or re.search(r"\d[+-]\d\d:?\d\d$", text):
        return _exact(text)
    seconds = _ago(text)
    if seconds is not None:
        return _nanoseconds(_moved(now, -seconds))
    return _nanoseconds(_named(text, now.astimezone(zone), zone))


class Clock:
    """Writes times: in the machine's own zone (``zone`` None) or another, seconds only."""

    def __init__(self, zone: dt.tzinfo | None = dt.UTC) -> None:
        self._zone = zone

    def text(self, at_ns: int) -> str:
        """Return ``2026-01-31T12:00:00Z``, or ``2026-01-31 13:00:00`` where the zone is not UTC."""
        moment = self._moment(at_ns)
        if self._zone is dt.UTC:
            return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
        return (moment if self._zone else moment.astimezone()).strftime("%Y-%m-%d %H:%M:%S")

    def exact(self, at_ns: int) -> str:
        """Return the same with milliseconds, where there are any."""
        milliseconds = at_ns // 10**6 % 1000
        text = self.text(at_ns)
        return f"{text[:19]}.{milliseconds:03}{text[19:]}" if milliseconds else text

    def hour(self, at_ns: int) -> int:
        """Return which hour of the day it was."""
        return int(self.text(at_ns)[11:13])

    def zone_text(self, at_ns: int) -> str:
        """Return what the zone is called at a time: ``UTC``, ``CET (UTC+01:00)``."""
        moment = self._moment(at_ns)
        moment = moment if self._zone else moment.astimezone()
        name, offset = moment.tzname() or "local time", moment.strftime("%z")
        return name if name == "UTC" else f"{name} (UTC{offset[:3]}:{offset[3:5]})"

    def _moment(self, at_ns: int) -> dt.datetime:
        """Return the time; one that no calendar has in every zone is the nearest that it has."""
        return dt.datetime.fromtimestamp(min(max(at_ns // 10**9, _FIRST), _LAST), self._zone or dt.UTC)


def _exact(text: str) -> int:
    """Return the time of RFC 3339, to the nanosecond."""
    fraction = re.search(r":\d\d\.(\d{1,9})", text)
    whole = text if fraction is None else text.replace(f".{fraction[1]}", "", 1)
    try:
        moment = dt.datetime.fromisoformat(whole.upper())
        return int(moment.timestamp()) * 10**9 + int(fraction[1].ljust(9, "0") if fraction else 0)
    except (ValueError, OverflowError):
        raise ValueError(NOT_A_TIME) from None


def _ago(text: str) -> float | None:
    """Return how many seconds ago that was, None where it is no duration."""
    try:
        return parse_seconds(text.removesuffix(" ago"), days=True)
    except ValueError:
        found = _words(text)
    if found is None or found[2] not in _UNITS:
        return None
    return float(int(found[1] or 1) * _UNITS[found[2]])


def _moved(moment: dt.datetime, seconds: float) -> dt.datetime:
    try:
        return (moment.astimezone(dt.UTC) + dt.timedelta(seconds=seconds)).astimezone(moment.tzinfo)
    except OverflowError:
        raise ValueError("that is before the first year of the calendar") from None


def _named(text: str, now: dt.datetime, zone: dt.tzinfo | None) -> dt.datetime:
    if found := _date(text):
        return _at(dt.date.fromisoformat(found[1]), found[2] or "0:00", zone)
    day, _, time = text.partition(" ")
    if _clock(text):
        today = _at(now.date(), text, zone)
        return today if today <= now else _at(now.date() - dt.timedelta(days=1), text, zone)
    if day in ("today", "yesterday"):
        return _at(now.date() - dt.timedelta(days=int(day == "yesterday")), time or "0:00", zone)
    if day in _DAYS:
        back = (now.weekday() - _DAYS.index(day)) % 7
        moment = _at(now.date() - dt.timedelta(days=back), time or "0:00", zone)
        return moment if moment <= now else _at(now.date() - dt.timedelta(days=back + 7), time or "0:00", zone)
    raise ValueError(NOT_A_TIME)


def _at(date: dt.date, time: str, zone: dt.tzinfo | None) -> dt.datetime:
    found = _clock(time)
    if found is None:
        raise ValueError(NOT_A_TIME)
    try:
        moment = dt.datetime(*date.timetuple()[:3], int(found[1]), int(found[2]), int(found[3] or 0))  # noqa: DTZ001
        return moment.replace(tzinfo=zone) if zone else moment.astimezone()
    except (ValueError, OverflowError):
        raise ValueError(NOT_A_TIME) from None


def _nanoseconds(moment: dt.datetime) -> int:
    since = moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return ((since.days * 86400 + since.seconds) * 10**6 + since.microseconds) * 1000
