/** The notes program under test: started on a free port with a folder of its own, killed hard, started again. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

/** How long the program may take to say where it listens. */
const START_WAIT_MS = 30_000;

export class Program {
  /** Starts it with an empty folder. @param {string[]} [more] arguments */
  static async start(...more) {
    const binary = process.env.WEFT_NOTES_BIN;
    if (!binary) throw new Error("set WEFT_NOTES_BIN to the notes program: cargo build --release -p notes makes target/release/notes");
    const program = new Program();
    program.binary = binary;
    program.more = more;
    program.folder = await mkdtemp(join(tmpdir(), "weft-notes-"));
    await program.run("127.0.0.1:0");
    return program;
  }

  /** @param {string} listen */
  async run(listen) {
    const child = spawn(this.binary, ["--listen", listen, "--store", this.folder, "--name", "Terminal", ...this.more], { stdio: ["pipe", "pipe", "pipe"] });
    this.child = child;
    this.ended = once(child, "exit");
    /** @type {string[]} */
    const said = [];
    /** @type {((line: string) => void) | undefined} */
    this.hear = undefined;
    const timer = setTimeout(() => child.kill("SIGKILL"), START_WAIT_MS);
    this.address = await new Promise((resolve, reject) => {
      for (const stream of [child.stdout, child.stderr]) {
        createInterface({ input: stream }).on("line", (line) => {
          said.push(line);
          const match = /http:\/\/([0-9.]+:\d+)/.exec(line);
          if (match) resolve(match[1]);
          this.hear?.(line);
        });
      }
      child.on("exit", () => reject(new Error(`the program ended: ${said.join("\n")}`)));
    });
    clearTimeout(timer);
  }

  get port() {
    return Number(this.address.split(":")[1]);
  }

  /** Types a line into its terminal; returns what it says to that. @param {string} line */
  async type(line) {
    /** @type {string[]} */
    const answer = [];
    const answered = new Promise((resolve) => {
      this.hear = (said) => {
        if (said === "ok") resolve(undefined);
        else if (!said.startsWith("·")) answer.push(said);
      };
    });
    this.child.stdin.write(`${line}\n`);
    await answered;
    return answer.join("\n");
  }

  /** As `kill -9`. */
  async kill() {
    this.child.kill("SIGKILL");
    await this.ended;
  }

  /** As a service manager stops it. */
  async terminate() {
    this.child.kill("SIGTERM");
    await this.ended;
  }

  /** Takes away what it keeps. */
  async empty() {
    await rm(this.folder, { recursive: true });
  }

  /** Starts it again, on the same port and folder. */
  async restart() {
    await this.run(this.address);
  }

  async stop() {
    await this.kill();
    await rm(this.folder, { recursive: true, force: true });
  }

  /** What it has: `{doc, title, text}`. */
  async note() {
    return (await fetch(`http://${this.address}/api/note`)).json();
  }
}
