// The WebSocket: JSON texts both ways, and blocks of samples from the server.

const HEADER_BYTES = 8;
// Of RFC 6455: the server has no place left.
const TRY_AGAIN_LATER = 1013;

export class Connection extends EventTarget {
  constructor() {
    super();
    this.nextStream = 1;
    const url = new URL("socket", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    url.search = location.search; // the token
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = ({ data }) => this.receive(data);
    this.socket.onclose = (event) => this.emit("lost", { reason: reasonOf(event) });
  }

  get isOpen() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  receive(data) {
    if (typeof data === "string") {
      const message = JSON.parse(data);
      this.emit(message.type, message);
    } else {
      const [stream, first] = new Uint32Array(data, 0, 2);
      this.emit("block", { stream, first, samples: new Int16Array(data, HEADER_BYTES) });
    }
  }

  emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  on(type, listener) {
    this.addEventListener(type, ({ detail }) => listener(detail));
  }

  send(message) {
    if (this.isOpen) this.socket.send(JSON.stringify(message));
  }

  sendFile(buffer) {
    if (this.isOpen) this.socket.send(buffer);
  }

  // Begin a stream; returns its number.
  begin(message) {
    const stream = this.nextStream;
    this.nextStream += 1;
    this.send({ ...message, stream });
    return stream;
  }
}

function reasonOf(event) {
  if (event.reason) return event.reason;
  if (event.code === TRY_AGAIN_LATER) return "all places are taken";
  return "The server has ended, or the address lacks its token. Start play.py again, and reload this page.";
}
