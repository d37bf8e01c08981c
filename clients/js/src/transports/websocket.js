/** The protocol over a WebSocket. @module */

/** @typedef {{ opened: () => void, message: (message: any) => void, closed: (code?: number, reason?: string) => void }} Listener */
/** @typedef {{ send: (message: any) => void, close: () => void }} Link */

/**
 * @param {string} base the server's address, `http:` or `https:`
 * @param {Listener} listener
 * @param {{ WebSocket: typeof WebSocket }} environment
 * @returns {Link}
 */
export function openWebSocket(base, listener, { WebSocket }) {
  const url = new URL("sync", base);
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url, "eventsync.v1.json");
  socket.onopen = () => listener.opened();
  socket.onmessage = ({ data }) => {
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      link.close();
      return listener.closed(undefined, "not a message");
    }
    listener.message(message);
  };
  socket.onclose = ({ code, reason }) => listener.closed(code, reason);
  const link = {
    /** @param {any} message */
    send: (message) => {
      // One that is closing drops what it is given; `closed` follows and says so.
      if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
    },
    close: () => {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    },
  };
  return link;
}
