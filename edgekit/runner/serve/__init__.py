"""On the device: `python3 -m edgekit.runner serve RELEASE`, one model behind the Open Inference Protocol.

    process.py     the life of the service: prove, load, listen, say ready, watch itself, stop
    protocol.py    requests and answers of the Open Inference Protocol (KServe v2), in JSON
    figures.py     what it counts, and the check that it makes of itself
    listeners.py   a Unix socket, or TCP with a token
    server.py      connections: a thread each, bounded in number, bytes and time
    wire.py        HTTP/1.1, the part of it that this needs
    notify.py      what systemd is told

numpy, the interpreter and the standard library, as everywhere in the runner.
"""
