/** A network cable between browser and server that can be cut and mended: a TCP proxy. */

import { once } from "node:events";
import { connect, createServer } from "node:net";

export class Cable {
  #sockets = new Set();
  #whole = true;
  #mute = false;
  /** @type {RegExp | undefined} Connections whose first words match are broken: a proxy that knows no WebSocket. */
  refuse = undefined;

  /** @param {() => number} serverPort asked for each connection, since the server may come back elsewhere */
  static async lay(serverPort) {
    const cable = new Cable();
    cable.server = createServer((near) => cable.#join(near, serverPort()));
    cable.server.listen(0, "127.0.0.1");
    await once(cable.server, "listening");
    cable.address = `http://127.0.0.1:${cable.server.address().port}`;
    return cable;
  }

  #join(near, port) {
    if (!this.#whole) return near.destroy();
    const far = connect(port, "127.0.0.1");
    near.once("data", (words) => this.refuse?.test(words.toString("latin1")) && near.destroy());
    near.on("data", (data) => far.write(data));
    far.on("data", (data) => this.#mute || near.write(data));
    for (const [socket, other] of [[near, far], [far, near]]) {
      this.#sockets.add(socket);
      socket.on("end", () => other.end());
      // A broken end breaks the other; that it broke is what the test is about.
      socket.on("error", () => other.destroy());
      socket.on("close", () => {
        this.#sockets.delete(socket);
        other.destroy();
      });
    }
  }

  /** Breaks every connection, and lets none through. */
  cut() {
    this.#whole = false;
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Lets through what the browser says, but nothing of what the server answers. */
  muteServer() {
    this.#mute = true;
  }

  mend() {
    this.#whole = true;
    this.#mute = false;
  }

  async remove() {
    this.cut();
    this.server.close();
    await once(this.server, "close");
  }
}
