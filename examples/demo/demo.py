"""Send a handful of recorded reviews through a running function, and show each record as it lands in the journal."""

import glob
import json
import os
import pathlib
import sys
import time
import urllib.error
import urllib.request

REVIEWS = pathlib.Path(__file__).with_name("reviews.ndjson")
COLOURS = {"CREATE": "32", "UPDATE": "33", "DELETE": "31", "CONNECT": "35"}
START_SECONDS, RECORD_SECONDS = 20.0, 10.0


def main(url: str, journal_dir: str) -> int:
    """Return 0 when every review was answered and found again."""
    _wait_until_ready(url)
    reviews = REVIEWS.read_bytes().splitlines()
    for review in reviews:
        uid = json.loads(review)["request"]["uid"]
        answer = _post(f"{url}/log-request?timeout=10s", review)
        if answer["response"] != {"uid": uid, "allowed": True}:
            print(f"unexpected answer: {answer}", file=sys.stderr)
            return 1
        print(_readable(_record(journal_dir, uid)))
    print(f"\n{len(reviews)} reviews answered, {len(reviews)} records found in {journal_dir}")
    return 0


def _wait_until_ready(url: str) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > until:
                sys.exit(f"the function at {url} is not ready after {START_SECONDS:g} s")
            time.sleep(0.1)


def _post(url: str, body: bytes) -> dict:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def _record(journal_dir: str, uid: str) -> dict:
    """Return the newest record of the review ``uid``, read from the journal."""
    until = time.monotonic() + RECORD_SECONDS
    while time.monotonic() < until:
        for path in sorted(glob.glob(f"{journal_dir}/*/audit-*.ndjson"), key=os.path.getmtime, reverse=True):
            for line in reversed(pathlib.Path(path).read_bytes().splitlines()):
                if uid.encode() in line:
                    return json.loads(line)
        time.sleep(0.05)
    sys.exit(f"no record of {uid} in {journal_dir}")


def _readable(record: dict) -> str:
    """Return time, user, verb and object, coloured on a terminal. Reads both record formats."""
    if record["kind"] == "Event":
        reference = record["objectRef"]
        user, time_, verb = record["user"]["username"], record["requestReceivedTimestamp"], record["verb"].upper()
        parts = [reference["resource"], reference.get("subresource"), reference.get("namespace"), reference.get("name")]
    else:
        request = record["request"]
        user, time_, verb = request["userInfo"]["username"], record["requestReceivedTimestamp"], request["operation"]
        parts = [request["resource"]["resource"], request.get("subResource"), request.get("namespace")]
        parts.append(request.get("name"))
    resource = "/".join(filter(None, parts[:2]))
    place = "/".join(filter(None, parts[2:]))
    shown = f"{verb:<8}"
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        shown = f"\x1b[{COLOURS.get(verb, '36')}m{shown}\x1b[0m"
    return f"{time_[:23]}Z  {shown} {resource:<20} {place:<44} by {user}"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
