from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Refusal(_message.Message):
    __slots__ = ("code", "detail")
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    code: str
    detail: str
    def __init__(self, code: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Description(_message.Message):
    __slots__ = ("organization", "unit", "public_size", "max_rank")
    ORGANIZATION_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_RANK_FIELD_NUMBER: _ClassVar[int]
    organization: str
    unit: str
    public_size: int
    max_rank: int
    def __init__(self, organization: _Optional[str] = ..., unit: _Optional[str] = ..., public_size: _Optional[int] = ..., max_rank: _Optional[int] = ...) -> None: ...

class DescribeReply(_message.Message):
    __slots__ = ("description", "refusal")
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    description: Description
    refusal: Refusal
    def __init__(self, description: _Optional[_Union[Description, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ...) -> None: ...

class TrainPart(_message.Message):
    __slots__ = ("head", "data")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    head: TrainHead
    data: bytes
    def __init__(self, head: _Optional[_Union[TrainHead, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class TrainHead(_message.Message):
    __slots__ = ("run", "round", "plan", "fingerprint", "adapter_size", "seen")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_SIZE_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    run: str
    round: int
    plan: bytes
    fingerprint: str
    adapter_size: int
    seen: str
    def __init__(self, run: _Optional[str] = ..., round: _Optional[int] = ..., plan: _Optional[bytes] = ..., fingerprint: _Optional[str] = ..., adapter_size: _Optional[int] = ..., seen: _Optional[str] = ...) -> None: ...

class ReleaseHead(_message.Message):
    __slots__ = ("size", "ledger_head")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    LEDGER_HEAD_FIELD_NUMBER: _ClassVar[int]
    size: int
    ledger_head: str
    def __init__(self, size: _Optional[int] = ..., ledger_head: _Optional[str] = ...) -> None: ...

class ReleasePart(_message.Message):
    __slots__ = ("head", "data", "refusal")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    head: ReleaseHead
    data: bytes
    refusal: Refusal
    def __init__(self, head: _Optional[_Union[ReleaseHead, _Mapping]] = ..., data: _Optional[bytes] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ...) -> None: ...

class StatementRequest(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...

class StatementReply(_message.Message):
    __slots__ = ("statement", "refusal")
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    statement: str
    refusal: Refusal
    def __init__(self, statement: _Optional[str] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ...) -> None: ...
