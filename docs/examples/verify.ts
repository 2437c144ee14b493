import { Webhook } from "standardwebhooks"; // npm install standardwebhooks

/** Returns the verified event. Throws if it is not genuine: respond with 400 then. */
export function eventOf(secret: string, headers: Record<string, string>, body: string): unknown {
  return new Webhook(secret).verify(body, headers);
}
