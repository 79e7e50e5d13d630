"""The Control API of the SuperLink on this machine. Uses private names of one version of flwr."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, UnregisterNodeRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from common.errors import SottoError
from common.system.network import Address
from server.registry.registry import Registry

_UNREGISTERED = "unregistered"


@contextmanager
def control_client(superlink: Address) -> Iterator[ControlHttpClient]:
    """Open a client of the Control API.

    Args:
        superlink: address of the SuperLink.

    Raises:
        SottoError: the SuperLink does not answer, or refuses a request.
    """
    client = ControlHttpClient.from_server_address(
        server_address=str(superlink),
        insecure=True,
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-cli")],
    )
    try:
        yield client
    except httpx.HTTPStatusError as error:
        raise SottoError(f"the SuperLink refuses the request: {error.response.text[:200]}") from None
    except httpx.HTTPError as error:
        raise SottoError(f"the SuperLink at {superlink} does not answer: {error}") from None
    finally:
        client.close()


def synchronize(registry: Registry, superlink: Address) -> None:
    """Register exactly the registry's node keys with a SuperLink, and store the nodes' ids in the registry.

    Args:
        registry: of the organizations.
        superlink: address of the SuperLink.

    Raises:
        SottoError: the SuperLink does not answer or refuses a key.
    """
    with control_client(superlink) as client, registry.exclusive():
        _synchronize(registry, client)


def _synchronize(registry: Registry, client: ControlHttpClient) -> None:
    listed = client.ListNodes(ListNodesRequest()).nodes_info
    registered = {bytes(node.public_key): node.node_id for node in listed if node.status != _UNREGISTERED}
    wanted = registry.node_keys()
    keys = {key.pem for key in wanted.values()}
    for pem, node in registered.items():
        if pem not in keys:
            client.UnregisterNode(UnregisterNodeRequest(node_id=node))
    known: Mapping[str, int] = registry.node_ids()
    for name, key in wanted.items():
        request = RegisterNodeRequest(public_key=key.pem, name=name)
        node = registered.get(key.pem) or client.RegisterNode(request).node_id
        if known.get(name) != node:
            registry.set_node_id(name, node)
