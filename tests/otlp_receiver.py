"""An OTLP/HTTP receiver of the protocol's own messages: it refuses in part, and fails as every backend here."""

from backends import HttpBackend
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse


class OtlpReceiver(HttpBackend):
    """``received`` holds (log.record.uid, LogRecord) of every record that was taken, ``resources`` theirs."""

    def __init__(self, **more):
        super().__init__(**more)
        self.paths = []
        self.resources = []
        self.content_type = "application/x-protobuf"

    def accept(self, request, body, *, partial):
        self.paths.append(request.path)
        if partial:
            return 503, b""
        assert request.headers["Content-Type"] == "application/x-protobuf"
        answer = ExportLogsServiceResponse()
        for logs in ExportLogsServiceRequest.FromString(body).resource_logs:
            resource = texts(logs.resource)
            assert resource["service.name"] == "kube-audit-function"
            (scope,) = logs.scope_logs
            assert logs.schema_url == scope.schema_url == "https://opentelemetry.io/schemas/1.44.0"
            for record in scope.log_records:
                about = texts(record)
                if about["user.name"] == "poison":
                    answer.partial_success.rejected_log_records += 1
                    answer.partial_success.error_message = "because"
                else:
                    self.received.append((about["log.record.uid"], record))
                    self.resources.append(resource)
        return 200, answer.SerializeToString()


def texts(message):
    """Return the attributes of a message, each a text, no name twice."""
    assert all(each.value.HasField("string_value") for each in message.attributes)
    found = {each.key: each.value.string_value for each in message.attributes}
    assert len(found) == len(message.attributes)
    return found
