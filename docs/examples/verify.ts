import { Webhook } from "standardwebhooks"; // npm install standardwebhooks

/** The verified event; throws where it is not genuine: answer 400 then. */
export function eventOf(secret: string, headers: Record<string, string>, body: string): unknown {
  return new Webhook(secret).verify(body, headers);
}
