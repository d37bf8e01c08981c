/** A small seeded generator of random numbers in [0, 1): mulberry32. */
export function randomFrom(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** The seed of this run: WEFT_SEED, or a fixed one. */
export const SEED = Number(process.env.WEFT_SEED ?? 20_261_121);
