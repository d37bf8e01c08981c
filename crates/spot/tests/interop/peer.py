"""A libzmq peer on strings: reads one JSON command per line, answers with one JSON line.

The tests decide what is sent and check what comes; this only does as it is told.
"""

import errno
import json
import sys
import time

import zmq
import zmq.auth.thread

context = zmq.Context()
sockets = {}
authenticator = None


def open_socket(name, kind, bind=None, connect=None, options=None):
    socket = context.socket(getattr(zmq, kind))
    socket.linger = 0
    # Nobody to send to is an error of a test, and none to wait for ever.
    socket.sndtimeo = 20_000
    options = options or {}
    for option, value in options.items():
        value = value.encode() if isinstance(value, str) else value
        socket.setsockopt(getattr(zmq, option), value)
    sockets[name] = socket
    if bind:
        # libzmq closes a socket some time after it was told to, so its port may not be free at once.
        for attempt in range(500):
            try:
                socket.bind(bind)
                break
            except zmq.ZMQError as error:
                if error.errno != errno.EADDRINUSE or attempt == 499:
                    raise
                time.sleep(0.01)
        return socket.getsockopt(zmq.LAST_ENDPOINT).decode()
    socket.connect(connect)
    return connect


def authenticate(users=None):
    """Lets in these users by password, and everybody with a CURVE key."""
    global authenticator
    authenticator = zmq.auth.thread.ThreadAuthenticator(context)
    authenticator.start()
    if users:
        authenticator.configure_plain(domain="*", passwords=users)
    authenticator.configure_curve(domain="*", location=zmq.auth.CURVE_ALLOW_ANY)


def send(name, frames):
    sockets[name].send_multipart([bytes.fromhex(frame) for frame in frames])


def offer(name, frames):
    """Sends if there is somebody to send to: libzmq lets go of a peer as soon as that has refused it."""
    try:
        sockets[name].send_multipart([bytes.fromhex(frame) for frame in frames], zmq.NOBLOCK)
    except zmq.Again:
        return False
    return True


def receive(name, timeout_ms):
    socket = sockets[name]
    if not socket.poll(timeout_ms):
        return None
    return [frame.hex() for frame in socket.recv_multipart()]


def keys():
    public, secret = zmq.curve_keypair()
    return [public.decode(), secret.decode()]


def close(name):
    sockets.pop(name).close()


def version():
    return zmq.zmq_version()


commands = {f.__name__: f for f in [open_socket, authenticate, send, offer, receive, keys, close, version]}

for line in sys.stdin:
    command = json.loads(line)
    try:
        answer = {"ok": commands[command.pop("do")](**command)}
    except Exception as error:
        answer = {"error": repr(error)}
    print(json.dumps(answer), flush=True)
