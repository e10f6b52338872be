"""A server of the engine answers whoever has its token, and nobody else."""

import uuid
from typing import Any

import pytest


def answers_who_has_the_token_alone(address: str, token: str, setting: str) -> Any:
    """Ask for a setting without a token, with a wrong one, and with the right one; gives the last answer."""
    import grpc
    from pyspark.sql.connect.proto import ConfigRequest, SparkConnectServiceStub

    request = ConfigRequest(session_id=str(uuid.uuid4()))
    request.operation.get.keys.append(setting)
    with grpc.insecure_channel(address.removeprefix("sc://")) as channel:
        for header in ((), (("authorization", "Bearer guessed"),)):
            with pytest.raises(grpc.RpcError) as refused:
                SparkConnectServiceStub(channel).Config(request, metadata=header, timeout=30)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        right = (("authorization", f"Bearer {token}"),)
        return SparkConnectServiceStub(channel).Config(request, metadata=right, timeout=30).pairs
