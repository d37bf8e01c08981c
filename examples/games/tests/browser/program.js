/** The games program under test: started on a free port with a folder of its own, killed hard, started again. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

/** How long the program may take to say where it listens. */
const START_WAIT_MS = 30_000;

export class Program {
  /** Starts it with an empty folder. @param {string[]} [more] further arguments */
  static async start(more = []) {
    const binary = process.env.WEFT_GAMES_BIN;
    if (!binary) throw new Error("set WEFT_GAMES_BIN to the games program: cargo build --release -p games makes target/release/games");
    const program = new Program();
    program.binary = binary;
    program.more = more;
    program.folder = await mkdtemp(join(tmpdir(), "weft-games-"));
    await program.run("127.0.0.1:0");
    return program;
  }

  /** @param {string} listen */
  async run(listen) {
    const child = spawn(this.binary, ["--listen", listen, "--data", this.folder, ...this.more], { stdio: ["ignore", "pipe", "pipe"] });
    this.child = child;
    this.ended = once(child, "exit");
    /** @type {string[]} */
    const said = [];
    const timer = setTimeout(() => child.kill("SIGKILL"), START_WAIT_MS);
    this.address = await new Promise((resolve, reject) => {
      for (const stream of [child.stdout, child.stderr]) {
        createInterface({ input: stream }).on("line", (line) => {
          said.push(line);
          const match = /http:\/\/([0-9.]+:\d+)/.exec(line);
          if (match) resolve(match[1]);
        });
      }
      child.on("exit", () => reject(new Error(`the program ended: ${said.join("\n")}`)));
    });
    clearTimeout(timer);
  }

  get port() {
    return Number(this.address.split(":")[1]);
  }

  /** As `kill -9`. */
  async kill() {
    this.child.kill("SIGKILL");
    await this.ended;
  }

  /** Starts it again, on the same port and folder. */
  async restart() {
    await this.run(this.address);
  }

  async stop() {
    await this.kill();
    await rm(this.folder, { recursive: true, force: true });
  }

  /** @type {Record<string, string>} What requests of the test itself show. */
  headers = {};

  /** What the server itself says. @param {string} path */
  async get(path) {
    const response = await fetch(`http://${this.address}${path}`, { headers: this.headers });
    return { status: response.status, body: await response.json() };
  }
}
