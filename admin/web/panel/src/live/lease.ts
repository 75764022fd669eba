// Speaking instead of an agent: a lease that is renewed while it is held, and given back when it is not.
import { ApiError, me, send } from "../api";
import { store } from "../store";

const RENEW_MS = 10_000;

export class Lease {
  readonly held = store(false);
  /** It was lost: why. */
  readonly lost = store<ApiError | null>(null);
  readonly #path: string;
  #timer: ReturnType<typeof setInterval> | undefined;
  #leave = () => this.#handBackAtOnce();

  constructor(session: string) { this.#path = `/v1/sessions/${encodeURIComponent(session)}/takeover`; }

  /** Takes over, or throws an ApiError (`taken_over`: somebody else has). */
  async take(force = false): Promise<void> {
    await send("PUT", this.#path, force ? { force } : undefined);
    this.lost.set(null);
    this.held.set(true);
    clearInterval(this.#timer);
    this.#timer = setInterval(() => void this.#renew(), RENEW_MS);
    addEventListener("pagehide", this.#leave);
  }

  async handBack(): Promise<void> {
    if (!this.held.get()) return;
    this.#forget();
    await send("DELETE", this.#path);
  }

  /** What the stream says: who holds it now. */
  heldBy(name: string | null): void {
    if (this.held.get() && name !== null && name !== me.get()?.user.name) this.#forget();
  }

  /** The session's view goes: it is given back without waiting. */
  close(): void { this.handBack().catch(() => undefined); }

  async #renew(): Promise<void> {
    try {
      await send("PUT", this.#path);
    } catch (error) {
      // Of the network: the next one may be in time, the lease lasts for three.
      if (!(error instanceof ApiError) || error.status === 0 || error.status >= 500) return;
      this.#forget();
      this.lost.set(error);
    }
  }

  #forget(): void {
    clearInterval(this.#timer);
    removeEventListener("pagehide", this.#leave);
    this.held.set(false);
  }

  #handBackAtOnce(): void {
    const csrf = me.get()?.csrf;
    void fetch(this.#path, { method: "DELETE", keepalive: true, headers: csrf ? { "x-csrf-token": csrf } : {} });
    this.#forget();
  }
}
