"""The functions-framework target: `functions-framework --target=handle --source=handler.py`."""

import os

from function.serving.framework import target_of
from function.startup import service_or_exit

# Settings are checked before the server forks, so that a mistake stops start-up. Nothing runs before the first call.
handle = target_of(service_or_exit(os.environ, forwards=False))
