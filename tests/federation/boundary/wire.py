"""All bytes that cross the loopback interface, put together again by connection."""

from __future__ import annotations

import socket
import struct
import threading
from collections import defaultdict
from types import TracebackType

_ETH_P_ALL = 3


class Capture:
    """Listens from its start to its end; use it as a context. Needs the right to open raw sockets."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**26)
        self._socket.bind(("lo", 0))
        self._socket.settimeout(0.2)
        self._flows: dict[bytes, dict[int, bytes]] = defaultdict(dict)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Capture:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while not self._ended.is_set():
            try:
                frame = self._socket.recv(2**17)
            except TimeoutError:
                continue
            self._take(frame[14:])

    def _take(self, packet: bytes) -> None:
        if len(packet) < 40 or packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_TCP:
            return
        header = 4 * (packet[0] & 15)
        (length,) = struct.unpack_from("!H", packet, 2)
        segment = packet[header:length] if length else packet[header:]
        ports, (number,) = segment[:4], struct.unpack_from("!I", segment, 4)
        data = segment[4 * (segment[12] >> 4) :]
        if data:
            self._flows[ports].setdefault(number, data)

    def streams(self) -> dict[tuple[int, int], bytes]:
        """(from, to) port → what was sent, in order; a place that was lost is left out."""
        return {
            struct.unpack("!HH", ports): b"".join(data for _, data in sorted(pieces.items()))
            for ports, pieces in self._flows.items()
        }
