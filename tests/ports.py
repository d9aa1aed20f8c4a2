"""Ports for the servers that tests start."""

import contextlib
import itertools
import os
import random
import socket

# Below the ports that systems hand out to clients (Linux: from 32,768 on). A port that bind(0) finds is one of those:
# between the finding and the server's own bind, any connection of any test can take it as its source.
FIRST = 10_240
SLICE = 4_000
SLICES = 5


def free_ports(count):
    """Return different ports that nobody listens on; no port of a slice comes again before all others did."""
    return list(itertools.islice(_free, count))


def is_free(port):
    """Return whether a server could listen on this port on every address."""
    with contextlib.suppress(OSError), _listen(port):
        return True
    return False


def _listen(port):
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _candidates():
    """Yield the ports of this test process's own slice for ever, from a random one on (other runs may be under way)."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    first = FIRST + SLICE * (int("".join(filter(str.isdigit, worker)) or SLICES - 1) % SLICES)
    start = random.SystemRandom().randrange(SLICE)
    return (first + (start + number) % SLICE for number in itertools.count())


_free = filter(is_free, _candidates())
