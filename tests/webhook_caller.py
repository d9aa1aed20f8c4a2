"""An API server in small, as a process of its own: posts reviews where a webhook configuration says, until told to end.

The configuration may be replaced at any time, as by `kubectl apply`. A review that has no answer counts as one: an API
server under ``failurePolicy: Ignore`` would have admitted it unrecorded.
"""

import http.client
import json
import os
import select
import sys
import urllib.parse

import running
import yaml


def main(configuration, port, name):
    """Post until standard input ends, then print {uid: status}; 0 is no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=10)
    statuses = {}
    seen = path = None
    while not _told_to_end():
        version = os.stat(configuration)
        if version != seen:
            seen, path = version, _path(configuration)
        uid = f"{name}-{len(statuses)}"
        try:
            statuses[uid] = running.ask(connection, "POST", path, running.review(uid)).status
        except (OSError, http.client.HTTPException):
            statuses[uid] = 0
            connection.close()
    json.dump(statuses, sys.stdout)


def _told_to_end():
    return bool(select.select([sys.stdin], [], [], 0)[0])


def _path(configuration):
    with open(configuration, encoding="utf-8") as file:
        url = yaml.safe_load(file)["webhooks"][0]["clientConfig"]["url"]
    return urllib.parse.urlsplit(url).path + "?timeout=5s"


if __name__ == "__main__":
    main(*sys.argv[1:])
