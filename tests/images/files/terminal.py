"""A web terminal on purpose: whoever connects gets a shell on a pseudo terminal."""
import os, pty, select, socket, sys

listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
line, _ = listener.accept()
pid, master = pty.fork()
if pid == 0:
    os.execv("/bin/bash", ["/bin/bash"])
while True:
    ready, _, _ = select.select([line, master], [], [], 3)
    if not ready:
        break
    try:
        if line in ready:
            data = line.recv(1024)
            if not data:
                break
            os.write(master, data)
        if master in ready:
            line.send(os.read(master, 1024))
    except OSError:
        break
