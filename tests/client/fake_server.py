"""A real gRPC server that speaks Triton's protocol and gives the answers a test has laid out."""

import threading
from collections.abc import Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

_DATATYPES = {np.dtype(np.float32): "FP32", np.dtype(np.int32): "INT32", np.dtype(np.object_): "BYTES"}


class Service(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Keeps what it was sent in `requests`; answers `outputs` [those asked for], or fails.

    Attributes:
        outputs_of: outputs of a model that has others than `outputs`.
        failure: status with which every request fails.
        missing: models that it does not have.
        failures: statuses of the next requests, used up one by one before `failure`.
        delay_s: how long an answer takes.
        cancelled: set once a call ended on the other side before it was answered.
    """

    def __init__(self) -> None:
        self.requests: list[service_pb2.ModelInferRequest] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.seconds_left: list[float] = []
        self.outputs: dict[str, np.ndarray] = {}
        self.outputs_of: dict[str, dict[str, np.ndarray]] = {}
        self.failure: tuple[grpc.StatusCode, str] | None = None
        self.failures: list[tuple[grpc.StatusCode, str]] = []
        self.delay_s = 0.0
        self.cancelled = threading.Event()
        self.most_at_once = 0
        self.missing: set[str] = set()
        self.loaded = {"storefront", "search"}
        self._under_way = 0
        self._lock = threading.Lock()

    def ModelInfer(self, request, context):  # noqa: N802 - the protocol's name
        with self._lock:
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            return self._infer(request, context)
        finally:
            with self._lock:
                self._under_way -= 1

    def _infer(self, request, context):
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.seconds_left.append(context.time_remaining())
        ended = threading.Event()
        context.add_callback(ended.set)
        if ended.wait(self.delay_s):
            self.cancelled.set()
        failure = self.failures.pop(0) if self.failures else self.failure
        if failure is not None:
            context.abort(*failure)
        if request.model_name in self.missing:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.model_name}' is not found")
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        outputs = self.outputs_of.get(request.model_name, self.outputs)
        for asked in request.outputs:
            if asked.name not in outputs:
                continue
            value = outputs[asked.name]
            response.outputs.add(name=asked.name, datatype=_DATATYPES[value.dtype], shape=value.shape)
            raw = serialize_byte_tensor(value).item() if value.dtype == np.object_ else value.tobytes()
            response.raw_output_contents.append(raw)
        return response

    def ServerReady(self, request, context):  # noqa: N802 - the protocol's name
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelReady(self, request, context):  # noqa: N802 - the protocol's name
        return service_pb2.ModelReadyResponse(ready=request.name in self.loaded)


@contextmanager
def serving(
    service: Service,
    port: int = 0,
    credentials: grpc.ServerCredentials | None = None,
    options: Sequence[tuple[str, int]] = (),
) -> Iterator[str]:
    """Serve until the block ends; gives the address."""
    server = grpc.server(futures.ThreadPoolExecutor(12), options=options)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service, server)
    wanted = f"127.0.0.1:{port}"
    port = server.add_insecure_port(wanted) if credentials is None else server.add_secure_port(wanted, credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(grace=None).wait()


def texts(values) -> np.ndarray:
    """A BYTES tensor of a (nested) list of texts."""
    return np.vectorize(lambda text: text.encode(), otypes=[np.object_])(np.array(values, dtype=np.object_))


def sent(request) -> dict:
    """The tensors of a request as lists."""
    tensors = {}
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        if tensor.datatype == "BYTES":
            values = [value.decode() for value in deserialize_bytes_tensor(raw)]
        else:
            assert tensor.datatype == "INT32"
            values = np.frombuffer(raw, np.int32).tolist()
        assert list(tensor.shape) == [len(values)]
        tensors[tensor.name] = values
    return tensors
