from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CallRequest(_message.Message):
    __slots__ = ("deployment", "method", "arrow_stream", "request_id")
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    ARROW_STREAM_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    deployment: str
    method: str
    arrow_stream: bytes
    request_id: str
    def __init__(self, deployment: _Optional[str] = ..., method: _Optional[str] = ..., arrow_stream: _Optional[bytes] = ..., request_id: _Optional[str] = ...) -> None: ...

class CallReply(_message.Message):
    __slots__ = ("arrow_stream", "request_id", "status", "more")
    ARROW_STREAM_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    arrow_stream: bytes
    request_id: str
    status: Status
    more: bool
    def __init__(self, arrow_stream: _Optional[bytes] = ..., request_id: _Optional[str] = ..., status: _Optional[_Union[Status, _Mapping]] = ..., more: bool = ...) -> None: ...

class Status(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class QueryRequest(_message.Message):
    __slots__ = ("query", "parameters")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    query: str
    parameters: bytes
    def __init__(self, query: _Optional[str] = ..., parameters: _Optional[bytes] = ...) -> None: ...

class QueryReply(_message.Message):
    __slots__ = ("arrow_stream",)
    ARROW_STREAM_FIELD_NUMBER: _ClassVar[int]
    arrow_stream: bytes
    def __init__(self, arrow_stream: _Optional[bytes] = ...) -> None: ...

class ListDeploymentsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListDeploymentsReply(_message.Message):
    __slots__ = ("deployments",)
    DEPLOYMENTS_FIELD_NUMBER: _ClassVar[int]
    deployments: _containers.RepeatedCompositeFieldContainer[Deployment]
    def __init__(self, deployments: _Optional[_Iterable[_Union[Deployment, _Mapping]]] = ...) -> None: ...

class Deployment(_message.Message):
    __slots__ = ("name", "version", "doc", "options", "methods", "kind")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DOC_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    doc: str
    options: DeploymentOptions
    methods: _containers.RepeatedCompositeFieldContainer[MethodDescription]
    kind: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., doc: _Optional[str] = ..., options: _Optional[_Union[DeploymentOptions, _Mapping]] = ..., methods: _Optional[_Iterable[_Union[MethodDescription, _Mapping]]] = ..., kind: _Optional[str] = ...) -> None: ...

class DeploymentOptions(_message.Message):
    __slots__ = ("replicas", "max_batch_rows", "max_batch_bytes", "linger_ms", "router", "max_queued_requests", "max_queued_bytes", "default_timeout_ms", "max_timeout_ms")
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_BYTES_FIELD_NUMBER: _ClassVar[int]
    LINGER_MS_FIELD_NUMBER: _ClassVar[int]
    ROUTER_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUED_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    replicas: int
    max_batch_rows: int
    max_batch_bytes: int
    linger_ms: float
    router: str
    max_queued_requests: int
    max_queued_bytes: int
    default_timeout_ms: int
    max_timeout_ms: int
    def __init__(self, replicas: _Optional[int] = ..., max_batch_rows: _Optional[int] = ..., max_batch_bytes: _Optional[int] = ..., linger_ms: _Optional[float] = ..., router: _Optional[str] = ..., max_queued_requests: _Optional[int] = ..., max_queued_bytes: _Optional[int] = ..., default_timeout_ms: _Optional[int] = ..., max_timeout_ms: _Optional[int] = ...) -> None: ...

class DescribeMethodRequest(_message.Message):
    __slots__ = ("deployment", "method")
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    deployment: str
    method: str
    def __init__(self, deployment: _Optional[str] = ..., method: _Optional[str] = ...) -> None: ...

class MethodDescription(_message.Message):
    __slots__ = ("deployment", "name", "doc", "input_schema", "output_schema", "options")
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DOC_FIELD_NUMBER: _ClassVar[int]
    INPUT_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    deployment: str
    name: str
    doc: str
    input_schema: bytes
    output_schema: bytes
    options: MethodOptions
    def __init__(self, deployment: _Optional[str] = ..., name: _Optional[str] = ..., doc: _Optional[str] = ..., input_schema: _Optional[bytes] = ..., output_schema: _Optional[bytes] = ..., options: _Optional[_Union[MethodOptions, _Mapping]] = ...) -> None: ...

class MethodOptions(_message.Message):
    __slots__ = ("form", "row_aligned", "idempotent", "streaming", "delimited", "strict")
    FORM_FIELD_NUMBER: _ClassVar[int]
    ROW_ALIGNED_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENT_FIELD_NUMBER: _ClassVar[int]
    STREAMING_FIELD_NUMBER: _ClassVar[int]
    DELIMITED_FIELD_NUMBER: _ClassVar[int]
    STRICT_FIELD_NUMBER: _ClassVar[int]
    form: str
    row_aligned: bool
    idempotent: bool
    streaming: bool
    delimited: bool
    strict: bool
    def __init__(self, form: _Optional[str] = ..., row_aligned: bool = ..., idempotent: bool = ..., streaming: bool = ..., delimited: bool = ..., strict: bool = ...) -> None: ...
