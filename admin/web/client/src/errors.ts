// What can go wrong in a browser, by kind, each with what to do about it.

export type ErrorKind =
  | "insecure_origin" | "mic_denied" | "no_device" | "device_busy" | "autoplay_blocked"
  | "unauthorized" | "session_over" | "server_full" | "connection_lost" | "refused";

const TOLD: Record<ErrorKind, [message: string, fix: string]> = {
  insecure_origin: [
    "The browser gives this page no microphone and no sound, because it did not come over https.",
    "Open it by https, or on the server's own machine as http://localhost. You can write here in any case.",
  ],
  mic_denied: [
    "This page may not use the microphone.",
    "Allow it in the browser's settings for this page (the icon beside the address), and in those of the system; then try again.",
  ],
  no_device: ["There is no microphone.", "Plug one in, or write instead."],
  device_busy: ["The microphone cannot be opened.", "Close other programs that use it, or choose another one; then try again."],
  autoplay_blocked: ["The browser plays no sound yet.", "Press a key or tap anywhere on the page."],
  unauthorized: ["This link has expired or is not valid.", "Ask for a new one."],
  session_over: ["This conversation is over.", "Start a new one."],
  server_full: ["The server takes no more conversations now.", "Try again in a minute."],
  connection_lost: ["The connection to the server is lost.", "Check the network, then try again."],
  refused: ["The server refused.", "Try again."],
};

/** `kind` says what happened, `fix` what to do; `code` is the server's own code, if it told one. */
export class ClientError extends Error {
  override readonly name = "ClientError";
  readonly fix: string;
  readonly code: string;

  constructor(readonly kind: ErrorKind, told: { message?: string | undefined; fix?: string | undefined; code?: string | undefined; cause?: unknown } = {}) {
    super(told.message || TOLD[kind][0], { cause: told.cause });
    this.fix = told.fix || TOLD[kind][1];
    this.code = told.code ?? kind;
  }
}

const KINDS: Record<string, ErrorKind> = {
  unauthorized: "unauthorized", forbidden: "unauthorized", bad_resume_token: "session_over", session_over: "session_over",
  room_expired: "session_over", unknown_session: "session_over", full: "server_full", draining: "server_full",
};
/** With these our own words are better than the server's, which are for who writes programs. */
const OURS = new Set<ErrorKind>(["unauthorized", "session_over"]);

/** The error of a problem document or of an `error` event. */
export function ofServer(told: { code: string; message?: string; detail?: string; fix?: string | null }): ClientError {
  const kind = KINDS[told.code] ?? "refused";
  if (OURS.has(kind)) return new ClientError(kind, { code: told.code });
  return new ClientError(kind, { code: told.code, message: told.message ?? told.detail, fix: told.fix ?? undefined });
}

/** The error of a `getUserMedia` that failed. */
export function ofMicrophone(cause: unknown): ClientError {
  const name = cause instanceof Error ? cause.name : "";
  if (name === "NotAllowedError" || name === "SecurityError") return new ClientError("mic_denied", { cause });
  if (name === "NotFoundError" || name === "OverconstrainedError") return new ClientError("no_device", { cause });
  return new ClientError("device_busy", { cause });
}
