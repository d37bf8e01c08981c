/** What may stand between a client and the server: it passes requests on, or answers them itself as it was told. */

import { once } from "node:events";
import { createServer, request } from "node:http";

const page = (status) => `<html><head><title>${status}</title></head><body><center><h1>${status}</h1></center><hr></body></html>`;

export class Proxy {
  /** What answers a push in place of the server: gets the body, returns the answer, or nothing to pass it on. */
  answer = (/** @type {string} */ _body) => /** @type {{ status: number, headers?: object, body?: string } | undefined} */ (undefined);
  /** How many pushes came. */
  pushes = 0;

  /** @param {() => number} serverPort */
  static async start(serverPort) {
    const proxy = new Proxy();
    proxy.server = createServer(async (near, reply) => {
      const isPush = near.method === "POST" && near.url.startsWith("/api/push/");
      let body = "";
      if (isPush) {
        for await (const piece of near.setEncoding("utf8")) body += piece;
        proxy.pushes += 1;
        const own = proxy.answer(body);
        if (own) return reply.writeHead(own.status, { "content-type": "text/html", ...own.headers }).end(own.body ?? page(own.status));
      }
      const { method, url: path, headers } = near;
      const far = request({ host: "127.0.0.1", port: serverPort(), method, path, headers }, (response) => {
        reply.writeHead(response.statusCode, response.headers);
        response.pipe(reply);
      });
      // What breaks on one side breaks on the other.
      far.on("error", () => reply.destroy());
      reply.on("close", () => far.destroy());
      if (isPush) far.end(body);
      else near.pipe(far);
    });
    proxy.server.listen(0, "127.0.0.1");
    await once(proxy.server, "listening");
    proxy.address = `http://127.0.0.1:${proxy.server.address().port}`;
    return proxy;
  }

  async stop() {
    this.server.close();
    this.server.closeAllConnections();
    await once(this.server, "close");
  }
}
