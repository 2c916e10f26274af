"""QUIC Initial packets in bulk: one ClientHello, sent again and again under new connection ids from many ports."""

import os
import socket
import ssl

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from fulmar_bin import varint

VERSION = 0x00000001
CID = 8
# First byte, version, two connection ids with their lengths, the length of no token, and the packet's length.
HEADER = 1 + 4 + 1 + CID + 1 + CID + 1 + 2
DATAGRAM = 1200


class Attempts:
    def __init__(self, url, ports=64):
        configuration = QuicConfiguration(is_client=True, alpn_protocols=["h3"], server_name="localhost", connection_id_length=CID)
        configuration.verify_mode = ssl.CERT_NONE
        client = QuicConnection(configuration=configuration)
        client.connect((url.hostname, url.port), now=0.0)
        packet = client.datagrams_to_send(now=0.0)[0][0]
        destination, self.source = packet[6 : 6 + CID], packet[7 + CID : 7 + 2 * CID]
        server = CryptoPair()
        server.setup_initial(destination, is_client=False, version=VERSION)
        length = int.from_bytes(packet[HEADER - 2 : HEADER], "big") & 0x3FFF
        _, payload, _ = server.decrypt_packet(packet[: HEADER + length], HEADER, 0)[:3]
        room = DATAGRAM - HEADER - 4 - 16
        self.payload = payload.rstrip(b"\0")[:room].ljust(room, b"\0")
        self.sockets = []
        for _ in range(ports):
            one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            one.setblocking(False)
            one.connect((url.hostname, url.port))
            self.sockets.append(one)
        self.answers = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for one in self.sockets:
            one.close()

    def packet(self):
        """An Initial that begins a handshake which nobody will go on with."""
        destination = os.urandom(CID)
        crypto = CryptoPair()
        crypto.setup_initial(destination, is_client=True, version=VERSION)
        length = (4 + len(self.payload) + 16) | 0x4000
        header = b"\xc3" + VERSION.to_bytes(4, "big") + bytes([CID]) + destination + bytes([CID]) + self.source + varint(0) + length.to_bytes(2, "big")
        return crypto.encrypt_packet(header + bytes(4), self.payload, 0)

    def send(self, number, datagram):
        """From the `number`th port; what was answered there is counted and thrown away."""
        one = self.sockets[number % len(self.sockets)]
        try:
            while one.recv(2048):
                self.answers += 1
        except (BlockingIOError, ConnectionRefusedError):
            pass
        try:
            one.send(datagram)
        except BlockingIOError:
            pass
