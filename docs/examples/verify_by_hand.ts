import { createHmac, timingSafeEqual } from "node:crypto";

/** `headers` have lower-case names. `body` is as it arrived, not parsed and serialized again. */
export function isGenuine(secret: string, headers: Record<string, string>, body: Buffer): boolean {
  const id = headers["webhook-id"] ?? "";
  const timestamp = headers["webhook-timestamp"] ?? "";
  const key = Buffer.from(secret.replace(/^whsec_/, ""), "base64");
  const mac = createHmac("sha256", key).update(`${id}.${timestamp}.`).update(body).digest("base64");
  const expected = Buffer.from(`v1,${mac}`);
  const isRecent = Math.abs(Date.now() / 1000 - Number(timestamp)) <= 5 * 60;
  const signatures = (headers["webhook-signature"] ?? "").split(" ").map((text) => Buffer.from(text));
  const isEqual = (one: Buffer) => one.length === expected.length && timingSafeEqual(one, expected);
  return isRecent && signatures.some(isEqual);
}
