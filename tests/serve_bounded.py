"""`python tests/serve_bounded.py '{"header_seconds": 1}' '{"NOFILE": [128, 200]}'`: serve with other bounds.

The second argument are the system's limits for the process.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from function import logs, startup
from function.serving import server
from function.serving.bounds import Bounds

for name, limits in json.loads(sys.argv[2]).items():
    resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), tuple(limits))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond FSIZE fails instead

service = startup.service_or_exit(os.environ, forwards=True, bounds=Bounds(**json.loads(sys.argv[1])))
logs.configure(service.settings.log_level)
sys.exit(server.serve(service))
