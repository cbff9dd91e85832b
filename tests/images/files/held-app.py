"""A small web application: pages out of a database, a thumbnail made by a program, a question to a service behind it;
and, as a hole, whatever an intruder wants to have started or connected to."""
import os
import socket
import sqlite3
import subprocess
import tempfile
import urllib.request

from flask import Flask, request

app = Flask(__name__)
DATABASE = "/tmp/app.db"


def database():
    connection = sqlite3.connect(DATABASE, timeout=30)
    connection.execute("CREATE TABLE IF NOT EXISTS visits (id INTEGER PRIMARY KEY, path TEXT)")
    return connection


@app.route("/")
def index():
    with database() as connection:
        connection.execute("INSERT INTO visits (path) VALUES ('/')")
        count = connection.execute("SELECT count(*) FROM visits").fetchone()[0]
    return f"<p>{count}</p>"


@app.route("/pack")
def pack():
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        file.write(os.urandom(2048).hex().encode())
        file.flush()
        return str(len(subprocess.run(["gzip", "-c", file.name], stdout=subprocess.PIPE, check=True).stdout))


@app.route("/behind")
def behind():
    return urllib.request.urlopen("http://203.0.113.66/status", timeout=5).read()


@app.route("/run")
def run():
    arguments = []
    while (argument := request.args.get(f"a{len(arguments)}")) is not None:
        arguments.append(argument)
    subprocess.Popen(arguments)
    return "ok"


@app.route("/connect")
def connect():
    socket.create_connection((request.args["host"], int(request.args["port"])), timeout=3).close()
    return "ok"
