// Tries the examples of the documentation on webhooks that are genuine and on others.

import { deepStrictEqual } from "node:assert";
import { readFileSync } from "node:fs";

import { eventOf } from "./verify.js";
import { isGenuine } from "./verify_by_hand.js";

interface Case {
  name: string;
  secret: string;
  headers: Record<string, string>;
  body: string;
  is_genuine: boolean;
}

function passesLibrary({ secret, headers, body }: Case): boolean {
  try {
    deepStrictEqual(eventOf(secret, headers, body), JSON.parse(body));
    return true;
  } catch {
    return false;
  }
}

function passesByHand({ secret, headers, body }: Case): boolean {
  return isGenuine(secret, headers, Buffer.from(body));
}

for (const one of JSON.parse(readFileSync(0, "utf8")) as Case[]) {
  for (const passes of [passesLibrary, passesByHand]) {
    if (passes(one) !== one.is_genuine) {
      console.error(`${passes.name}: ${one.name}`);
      process.exitCode = 1;
    }
  }
}
