// A miner in a scripting language, over a WebSocket: its frames are masked, so no method is readable.
const net = require("net");
const crypto = require("crypto");
const [host, port] = process.argv[2].split(":");
const socket = net.connect(Number(port), host, () => {
  const key = crypto.randomBytes(16).toString("base64");
  socket.write(`GET /proxy HTTP/1.1\r\nHost: ${host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
    `Sec-WebSocket-Key: ${key}\r\nSec-WebSocket-Version: 13\r\n\r\n`);
  const text = Buffer.from('{"type":"auth","params":{"site_key":"LAB","user":null}}');
  const mask = crypto.randomBytes(4);
  const masked = text.map((byte, i) => byte ^ mask[i % 4]);
  socket.write(Buffer.concat([Buffer.from([0x81, 0x80 | text.length]), mask, masked]));
});
socket.on("error", () => {});
const until = Date.now() + 4000;
while (Date.now() < until) crypto.createHash("sha256").update("x".repeat(4096)).digest();
process.exit(0);
