"""`handler.py`, but that nobody is throttled: tests fail on purpose, again and again."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from function.serving.bounds import Bounds
from function.serving.framework import target_of
from function.startup import service_or_exit

handle = target_of(service_or_exit(os.environ, forwards=False, bounds=Bounds(free_failures=1_000_000)))
