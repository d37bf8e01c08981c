/** The client of eventsync. Start with {@link SyncClient}. @module */

export { SyncClient, replay } from "./sync-client.js";
export { StateManager } from "./state-manager.js";
export { ConflictResolver } from "./conflict-resolver.js";
export { adoptOrphans, claimIdentity, newClientId } from "./identity.js";
export { MemoryStore } from "./stores/memory.js";
export { IndexedDbStore } from "./stores/indexeddb.js";
export { applyPatch, diff, formatPointer, parsePointer, PatchError, valueAt } from "./json-patch.js";
export { equal, isObject } from "./json.js";
export { merge } from "./merge.js";
export { SyncMachine } from "./sync-machine.js";
