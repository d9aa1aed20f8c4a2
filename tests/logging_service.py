"""Cloud Logging's LoggingServiceV2 over gRPC, of Google's own classes: it refuses, throttles, fails in part."""

import random
import re
import threading
from concurrent import futures

import grpc
from backends import Faults, number_of
from google.cloud.logging_v2.types import WriteLogEntriesPartialErrors, WriteLogEntriesRequest, WriteLogEntriesResponse
from google.protobuf import any_pb2
from google.rpc import code_pb2, status_pb2

FAULTS = ("unavailable", "exhausted", "partial", "lost_answer")
ENTRY_BYTES_MAX, REQUEST_BYTES_MAX = 262_144, 10_000_000


class LoggingService:
    """``received`` holds (insert id, LogEntry) of every entry that was taken. ``rate`` of the calls fail."""

    def __init__(self, *, rate=0.0, seed=1, faults=FAULTS, slot_seconds=0.0):
        self.fault = Faults(rate, faults, seed, slot_seconds)
        self.down = False
        self.poison = None  # a part of the insert id of an entry that fails every call
        self.received = []
        self.requests = 0
        self.metadata = []
        self.random = random.Random(seed)
        self.lock = threading.Lock()
        write = grpc.unary_unary_rpc_method_handler(
            self.write,
            request_deserializer=WriteLogEntriesRequest.deserialize,
            response_serializer=WriteLogEntriesResponse.serialize,
        )
        handler = grpc.method_handlers_generic_handler("google.logging.v2.LoggingServiceV2", {"WriteLogEntries": write})
        options = [("grpc.max_receive_message_length", 32 << 20)]
        self.server = grpc.server(futures.ThreadPoolExecutor(2), options=options)
        self.server.add_generic_rpc_handlers((handler,))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.url = f"http://127.0.0.1:{self.port}"
        self.server.start()

    def close(self):
        self.server.stop(0)

    def write(self, request, context):
        with self.lock:
            self.requests += 1
            self.metadata.append(dict(context.invocation_metadata()))
            fault = self.fault.next()
            if self.down or fault == "unavailable":
                context.abort(grpc.StatusCode.UNAVAILABLE, "try later")
            if self.poison and any(self.poison in entry.insert_id for entry in request.entries):
                context.abort(grpc.StatusCode.INTERNAL, "oh")
            if fault == "exhausted":
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "quota")
            if type(request).pb(request).ByteSize() > REQUEST_BYTES_MAX:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "request size exceeds the limit")
            assert request.partial_success
            refused = {}
            for index, entry in enumerate(request.entries):
                if code := self.refusal(entry, partial=fault == "partial"):
                    refused[index] = status_pb2.Status(code=code, message="because")
                else:
                    self.received.append((entry.insert_id, entry))
            if fault == "lost_answer":
                context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        if refused:
            self.abort_partially(context, refused)
        return WriteLogEntriesResponse()

    def refusal(self, entry, *, partial):
        assert re.fullmatch("projects/[a-z-]+/logs/[A-Za-z0-9._%-]+", entry.log_name)
        assert entry.resource.type == "k8s_cluster"
        assert {"project_id", "location", "cluster_name"} == set(entry.resource.labels)
        if type(entry).pb(entry).ByteSize() > ENTRY_BYTES_MAX or "poison" in entry.insert_id:
            return code_pb2.INVALID_ARGUMENT
        if entry.labels.get("user") == "poison":
            return code_pb2.INVALID_ARGUMENT
        if partial and self.random.random() < 0.3:
            return code_pb2.RESOURCE_EXHAUSTED
        return None

    def abort_partially(self, context, refused):
        partial = WriteLogEntriesPartialErrors.pb()(log_entry_errors=refused)
        detail = any_pb2.Any()
        detail.Pack(partial)
        code, message = code_pb2.INVALID_ARGUMENT, "some entries were refused"
        if all(status.code == code_pb2.RESOURCE_EXHAUSTED for status in refused.values()):
            code = code_pb2.RESOURCE_EXHAUSTED
        status = status_pb2.Status(code=code, message=message, details=[detail])
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        grpc_code = next(one for one in grpc.StatusCode if one.value[0] == code)
        context.abort(grpc_code, message)

    def ids(self):
        return [record_id for record_id, _ in self.received]

    def firsts(self):
        seen = set()
        return [number for number in map(number_of, self.ids()) if not (number in seen or seen.add(number))]
