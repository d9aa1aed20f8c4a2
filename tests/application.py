"""The ASGI application without a process around it: with a recorder, a journal or clusters of a test's own."""

from function.configuration.files import Snapshot
from function.metrics import Metrics
from function.serving.asgi import answer_request
from function.serving.bounds import Bounds
from function.serving.endpoint import Endpoint
from function.serving.intake import Intake


class Application:
    """``endpoint`` and what leads to it."""

    def __init__(self, recorder=None, *, metrics=None, body_bytes_max=32 << 20, clusters=None, bounds=None):
        metrics, bounds = metrics or Metrics(), bounds or Bounds()
        snapshot = Snapshot(clusters, recorder, {})
        self.intake = Intake(snapshot, None, metrics, body_bytes_max=body_bytes_max, bounds=bounds)
        self.endpoint = Endpoint(self.intake, None, metrics, bounds=bounds)

    async def __call__(self, scope, receive, send):
        await answer_request(self.endpoint, scope, receive, send)
